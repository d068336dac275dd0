"""Metrics of answers and of kept patches, as functions."""
