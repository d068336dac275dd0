"""foveate: which of an image's visual tokens does a multimodal language model need?

The names below are the public ones. Each is imported when it is asked for, so `import foveate` itself takes no time.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.analysis.from_python import compare, evaluate
    from foveate.compressors import Compressor, DecoderCompressor, Pipeline, VisionCompressor
    from foveate.core.contracts import Merger, Scorer, Selector
    from foveate.core.needs import Need
    from foveate.data.benchmarks import register_benchmark
    from foveate.data.load import load_samples
    from foveate.evaluation import EvalConfig
    from foveate.methods import METHODS
    from foveate.methods.from_file import load_recipe
    from foveate.models.loading.load import adapt, load, register_family
    from foveate.models.runtime.prefix_cache import PrefixCache

from foveate.core.extras import missing_package

__version__ = version("foveate")

_HOMES = {
    "foveate.analysis.from_python": ("compare", "evaluate"),
    "foveate.compressors": ("Compressor", "DecoderCompressor", "Pipeline", "VisionCompressor"),
    "foveate.core.contracts": ("Merger", "Scorer", "Selector"),
    "foveate.core.needs": ("Need",),
    "foveate.data.benchmarks": ("register_benchmark",),
    "foveate.data.load": ("load_samples",),
    "foveate.evaluation": ("EvalConfig",),
    "foveate.methods": ("METHODS",),
    "foveate.methods.from_file": ("load_recipe",),
    "foveate.models.loading.load": ("adapt", "load", "register_family"),
    "foveate.models.runtime.prefix_cache": ("PrefixCache",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "METHODS",
    "Compressor",
    "DecoderCompressor",
    "EvalConfig",
    "Merger",
    "Need",
    "Pipeline",
    "PrefixCache",
    "Scorer",
    "Selector",
    "VisionCompressor",
    "adapt",
    "compare",
    "evaluate",
    "load",
    "load_recipe",
    "load_samples",
    "register_benchmark",
    "register_family",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (any of them)
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME_OF[name]), name)
    except ModuleNotFoundError as error:
        if missing := missing_package(error):
            raise missing from error
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
