"""The cost of an answer: time by part, memory, and floating-point operations."""
