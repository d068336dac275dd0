"""Built-in and registered benchmarks by name."""

from foveate.core.errors import DataError
from foveate.core.plugins import import_plugin
from foveate.data.benchmark import Benchmark
from foveate.data.benchmarks.captions import CHAIR
from foveate.data.benchmarks.choices import (
    AI2D,
    MATHVISTA,
    MMBENCH,
    MMBENCH_CN,
    MMSTAR,
    REALWORLDQA,
    SCIENCEQA,
    SEEDBENCH,
)
from foveate.data.benchmarks.college import MMMU
from foveate.data.benchmarks.documents import CHARTQA, DOCVQA, INFOGRAPHICVQA, OCRBENCH
from foveate.data.benchmarks.grounding import REFCOCO, REFCOCO_PLUS, REFCOCOG
from foveate.data.benchmarks.open_answers import GQA, MMVET, TEXTVQA, TEXTVQA_OCR, VIZWIZ, VQAV2
from foveate.data.benchmarks.videos import EGOSCHEMA, LONGVIDEOBENCH, MLVU, MVBENCH, VIDEOMME, VIDEOMME_SUBTITLES
from foveate.data.benchmarks.yes_no import HALLUSIONBENCH, MME, POPE
from foveate.data.names import GENERATED, REGISTERED, TABLE

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        AI2D,
        CHAIR,
        CHARTQA,
        DOCVQA,
        EGOSCHEMA,
        GQA,
        HALLUSIONBENCH,
        INFOGRAPHICVQA,
        LONGVIDEOBENCH,
        MATHVISTA,
        MLVU,
        MMBENCH,
        MMBENCH_CN,
        MME,
        MMMU,
        MMSTAR,
        MMVET,
        MVBENCH,
        OCRBENCH,
        POPE,
        REALWORLDQA,
        REFCOCO,
        REFCOCO_PLUS,
        REFCOCOG,
        SCIENCEQA,
        SEEDBENCH,
        TEXTVQA,
        TEXTVQA_OCR,
        VIDEOMME,
        VIDEOMME_SUBTITLES,
        VIZWIZ,
        VQAV2,
    )
}


def register_benchmark(benchmark: Benchmark) -> None:
    """Registers a benchmark under its name, for experiments and `load_samples`.

    An installed package registers a benchmark with an entry point of the group `foveate.benchmarks` and of the
    benchmark's name.

    Raises:
        DataError: Another data set has this name.
    """
    if benchmark.name in (*GENERATED, TABLE) or BENCHMARKS.get(benchmark.name, benchmark) != benchmark:
        raise DataError(f"data {benchmark.name!r}: another data set has this name already")
    BENCHMARKS[benchmark.name] = benchmark
    REGISTERED.add(benchmark.name)


def benchmark_of(name: str) -> Benchmark:
    """Returns the benchmark of a name, one of `data.names.known_names`.

    Raises:
        DataError: The entry point of this name is not a benchmark of this name.
    """
    if name not in BENCHMARKS:
        benchmark = import_plugin("foveate.benchmarks", name)
        if not isinstance(benchmark, Benchmark) or benchmark.name != name:
            raise DataError(f"entry point {name!r} of foveate.benchmarks: expected a Benchmark of that name")
        register_benchmark(benchmark)
    return BENCHMARKS[name]
