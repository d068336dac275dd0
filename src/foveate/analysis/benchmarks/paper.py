"""The grid of the VTC-CLS paper, arXiv 2412.05819."""

from typing import Any

from foveate.core.layers import AtDepth

PAPER, MODEL = "VTC-CLS", "LLaVA-1.5-7B"
CHECKPOINT = "llava-hf/llava-1.5-7b-hf"
BENCHMARKS = {  # as the paper names them
    "scienceqa": "ScienceQA",
    "gqa": "GQA",
    "textvqa_ocr": "TextVQA",  # questions with the OCR tokens, as LLaVA-1.5 is evaluated
    "pope": "POPE",
    "mmbench": "MMBench",
    "mmbench_cn": "MMBench-CN",
    "mmvet": "MM-Vet",
    "seedbench": "SEED",
}
JUDGED = "mmvet"  # graded by GPT-4 in the paper, which is not used here
SAME_QUESTIONS = {"mmbench_cn": "mmbench"}
"""Benchmarks whose questions, and so whose sampling errors, are those of another benchmark."""
BUDGETS = (256, 128, 64)


def vtc_cls_from_20(keep: int, start_layer: int = AtDepth(20, of=24)) -> Any:  # noqa: ANN401 (importing Compressor takes a second)
    """Returns VTC-CLS with the paper's K = 3: [CLS] attention summed over layers 20 to 22 of 24.

    The default of the authors' scripts is layer 16, and their code does not state the start layer of the table.
    """
    from foveate.methods import vtc_cls

    return vtc_cls(keep, start_layer)


METHODS = {
    "full": "full",
    "fastv": "FastV",
    "prumerge_plus": "PruMerge+",
    "vtc_cls": "VTC-CLS",
    "foveate.analysis.benchmarks.paper:vtc_cls_from_20": "VTC-CLS",
}
"""Paper's name of the method whose published numbers belong to a method."""
LABELS = METHODS | {"foveate.analysis.benchmarks.paper:vtc_cls_from_20": "VTC-CLS, K = 3"}
"""Name of a method in tables."""
CLAIMS = tuple((ours, other) for ours in ("VTC-CLS", "VTC-CLS, K = 3") for other in ("FastV", "PruMerge+"))
"""Pairs of labels; the paper claims that the first is better than the second on average."""
