"""The grid of the VTC-CLS paper, arXiv 2412.05819."""

PAPER, MODEL = "VTC-CLS", "LLaVA-1.5-7B"
CHECKPOINT = "llava-hf/llava-1.5-7b-hf"
BENCHMARKS = {  # as the paper names them
    "scienceqa": "ScienceQA",
    "gqa": "GQA",
    "textvqa_ocr": "TextVQA",  # LLaVA-1.5 is asked with the words that were found in the picture
    "pope": "POPE",
    "mmbench": "MMBench",
    "mmbench_cn": "MMBench-CN",
    "mmvet": "MM-Vet",
    "seedbench": "SEED",
}
METHODS = {"full": "full", "fastv": "FastV", "prumerge_plus": "PruMerge+", "vtc_cls": "VTC-CLS"}
BUDGETS = (256, 128, 64)
