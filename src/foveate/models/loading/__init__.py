"""Loading of a model with its processor and prompts, by name or from a folder."""
