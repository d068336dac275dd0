"""The shipped small LLaVA: weights and architecture; `reference_model/` trains it."""
