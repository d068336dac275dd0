"""Parts of Hugging Face models that every family has: adapter, decoder, tower, attention."""
