"""The shipped small LLaVA, and how it is trained."""
