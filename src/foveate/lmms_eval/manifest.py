"""The entry point by which lmms-eval finds the model."""

from typing import Any

NAME = "foveate"


def manifest() -> Any:  # noqa: ANN401 (a class of lmms-eval, which calls this while it is being imported)
    """Returns the manifest of `--model foveate`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(NAME, simple_class_path="foveate.lmms_eval.model.Foveate")
