"""Names of the commands, known without importing them."""

from collections.abc import Mapping

COMMANDS: Mapping[str, str] = {
    "ablate": "which vision layers find the patches that matter, alone and summed, at several budgets",
    "budgets": "how accuracy falls with the budget, on a fine axis",
    "frontier": "smaller images and fewer of their tokens together, at equal tokens and equal time",
    "search": "layer weights by search, reported on unseen questions",
    "compare": "published methods and controls at the same number of tokens",
    "recommend": "the cheapest setting that surely loses at most so many points, as a recipe file",
    "bias": "what prompts, answers and [CLS] attend to, and what the answer depends on",
    "speed": "how long the parts of an answer take, with and without compression",
    "dashboard": "page in the browser: the trials of a study, with their records and kept patches",
    "explore": "page in the browser: kept patches, scores, attention and answers of several methods",
    "export": "a method as a program of other engines (torch.export, ONNX), with golden inputs and outputs",
    "reproduce": "published numbers of a paper beside our own",
    "answer": "answers of one method to benchmarks, also those without reference answers",
    "serve": "OpenAI-compatible server of a compressed model",
    "loadtest": "requests per second and waiting times of a server, with and without compression",
    "methods": "list of the methods: paper, where tokens are removed, families",
    "doctor": "versions and devices, and which package is missing for what",
}
"""Each command's name and what it measures or shows."""
