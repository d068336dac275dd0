"""Ratios of speed and memory, both sides measured in one run."""
