"""From a name or a folder to a model with its processor and prompts."""
