"""From a configuration to one record per question; both names are imported when they are asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch and transformers take seconds to import
    from foveate.evaluation.config import EvalConfig
    from foveate.evaluation.run import evaluate

__all__ = ["EvalConfig", "evaluate"]
_MODULES = {"EvalConfig": "foveate.evaluation.config", "evaluate": "foveate.evaluation.run"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (one of `__all__`)
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
