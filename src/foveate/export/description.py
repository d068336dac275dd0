"""The description of a program, which stands in its file: names, shapes and meanings of inputs and outputs."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from torch import Tensor

from foveate.compressors import Compressor
from foveate.compressors.recipe_file import chosen_for
from foveate.core.needs import Need
from foveate.export.inputs import FEATURES, PROJECTED, Recorded
from foveate.export.program import KEPT, ORIGINS, TOKENS
from foveate.models.backbone.adapter import Adapter

FORMAT = 1
DESCRIPTION = "foveate.json"
"""Name of the description among the extra files of a .pt2, the properties of an ONNX model, and in golden files."""
_OUTPUTS = {
    KEPT: "kept patches, ascending, numbered row by row; -1 at the end of images that keep fewer",
    TOKENS: "tokens in the order of origins, merged",
    ORIGINS: "the patch whose position each token takes; -2 for a token that takes no patch's position",
}


def described(
    name: str, compressor: Compressor, example: Recorded, outputs: Mapping[str, Tensor], adapter: Adapter
) -> dict[str, Any]:
    """Returns the description as plain JSON.

    Args:
        name: Name of the method.
        compressor: The compressor.
        example: What it reads.
        outputs: What the program gives for it.
        adapter: The model's adapter.
    """
    grid = example.arrangement.views[0]
    merged = TOKENS in outputs
    return {
        "format": FORMAT,
        "method": name,
        "compressor": repr(compressor),
        "grid": [grid.rows, grid.columns],
        "kept": outputs[KEPT].shape[1],
        "tokens": outputs[TOKENS].shape[1] if merged else outputs[KEPT].shape[1],
        "positions": "repacked" if compressor.repack else "original",
        "inputs": {
            part: _described(value, _meaning(part, value, example, adapter)) for part, value in example.inputs.items()
        },
        "outputs": {part: _described(value, _OUTPUTS[part]) for part, value in outputs.items()},
        "model": vars(chosen_for(adapter)),
        "versions": {package: version(package) for package in ("foveate", "torch")},
    }


def shown(part: Mapping[str, Any]) -> str:
    """Returns the shapes of described inputs or outputs in one line."""
    return ", ".join(f"{name} ({', '.join(map(str, one['shape']))})" for name, one in part.items())


def _described(value: Tensor, meaning: str) -> dict[str, Any]:
    dtype = str(value.dtype).removeprefix("torch.")
    return {"shape": ["batch", *value.shape[1:]], "dtype": dtype, "meaning": meaning}


def _meaning(name: str, value: Tensor, example: Recorded, adapter: Adapter) -> str:
    if name == FEATURES:
        with_cls = value.shape[1] > example.arrangement.patches
        return "features of the patches before the projector" + ", then of [CLS]" * with_cls
    if name == PROJECTED:
        return "features of the patches after the projector"
    need = next(need for need, found in example.names.items() if found == name)
    return repr(need) + _layers(need, adapter)


def _layers(need: Need, adapter: Adapter) -> str:
    layers = adapter.layers(need)
    return f", layers {', '.join(map(str, layers))} of {adapter.tower.depth} counted from 0" if layers else ""
