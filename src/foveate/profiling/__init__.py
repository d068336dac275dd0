"""What a compression saves: tokens and floating-point operations."""
