"""Compression while a model runs: images, packing, pruning in the decoder, generation."""
