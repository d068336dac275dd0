"""Generated images with questions."""
