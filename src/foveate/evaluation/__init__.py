"""From a configuration to one record per question."""

from foveate.evaluation.config import EvalConfig
from foveate.evaluation.run import evaluate

__all__ = ["EvalConfig", "evaluate"]
