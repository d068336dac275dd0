"""Numbers from answers and kept sets."""
