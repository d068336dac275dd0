"""Adapters between the contracts of `core` and Hugging Face models; the only package that knows both."""
