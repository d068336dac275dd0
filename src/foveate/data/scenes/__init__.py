"""Generated images with questions about them."""
