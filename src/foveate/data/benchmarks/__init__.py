"""The benchmarks that are known, by name."""

from foveate.data.benchmark import Benchmark
from foveate.data.benchmarks.choices import MMBENCH, MMBENCH_CN, SCIENCEQA, SEEDBENCH
from foveate.data.benchmarks.grounding import REFCOCO, REFCOCO_PLUS, REFCOCOG
from foveate.data.benchmarks.open_answers import GQA, MMVET, TEXTVQA, TEXTVQA_OCR, VIZWIZ, VQAV2
from foveate.data.benchmarks.yes_no import MME, POPE

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        GQA,
        MMBENCH,
        MMBENCH_CN,
        MME,
        MMVET,
        POPE,
        REFCOCO,
        REFCOCO_PLUS,
        REFCOCOG,
        SCIENCEQA,
        SEEDBENCH,
        TEXTVQA,
        TEXTVQA_OCR,
        VIZWIZ,
        VQAV2,
    )
}
