"""Pictures with questions."""
