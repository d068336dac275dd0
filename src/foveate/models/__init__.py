"""Adapters between the contracts of `core` and Hugging Face models."""
