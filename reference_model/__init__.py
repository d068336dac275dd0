"""Training of the shipped models and their model cards; not part of the wheel."""
