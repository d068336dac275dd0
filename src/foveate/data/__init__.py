"""Images with questions."""
