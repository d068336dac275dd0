"""The OpenAI-compatible server of transformers with a compressed model, and the load test of such servers."""
