"""Measurement of perception bias: what attention prefers, and what the answer depends on."""
