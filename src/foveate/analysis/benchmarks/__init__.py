"""Benchmark numbers, submissions and the reproduction of published results."""
