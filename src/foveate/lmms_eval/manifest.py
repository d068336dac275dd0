"""What lmms-eval finds by the entry point."""

from typing import Any

NAME = "foveate"


def manifest() -> Any:  # noqa: ANN401 (a class of lmms-eval, which asks this while it is being imported)
    """Says which class answers to `--model foveate`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(NAME, simple_class_path="foveate.lmms_eval.model.Foveate")
