"""Weights and architecture of the shipped small LLaVA, which `reference_model/` trains."""
