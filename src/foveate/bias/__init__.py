"""Measurement of perception bias: preferences of attention, and causal effects of patches on the answer."""
