"""The parts of Hugging Face models that all families share: adapter, decoder, tower, attention."""
