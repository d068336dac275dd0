"""Benchmarks of speed and memory, both sides measured in one process."""
