"""Sizes of weights, read from the headers of a checkpoint's files before the model is loaded."""

import json
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from foveate.core.errors import FoveateError, shown
from foveate.models.backbone.internals import internal
from foveate.models.loading.automatic import FLOATING, memory_of, stored_dtype
from foveate.models.loading.names import AUTO, DTYPES, folder_of

_GIB = 2**30
_BITS = {"F8_E4M3": 8, "F8_E5M2": 8, "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32} | {
    "I64": 64,
    "U64": 64,
}  # of safetensors; these keep their type when weights are converted


def memory_note(name: str | Path, device: str, dtype: str, revision: str = "main") -> str:
    """Returns a sentence if a checkpoint's weights are larger than a device's memory, with what needs less.

    Args:
        name: See `load`.
        device: The device that shall hold the weights.
        dtype: Their precision, or "auto" for that of the checkpoint.
        revision: Branch, tag or commit of a hub ID.

    Returns:
        The sentence; empty if the weights fit, or if a size is not known, such as before a download.
    """
    try:
        place = torch.device(device)
        there = None if place.type == "mps" else memory_of(place)  # of MPS only a recommendation is known
        chosen = stored_dtype(name) if dtype == AUTO else dtype
        needed = None if there is None or chosen not in DTYPES else weight_bytes(name, chosen, revision)
    except (RuntimeError, AssertionError, FoveateError):  # no such device or checkpoint: loading names it
        return ""
    if there is None or needed is None or needed <= there:
        return ""
    half = weight_bytes(name, "bfloat16", revision) or needed
    less = f"--dtype bfloat16 needs {half / _GIB:.1f} GiB, " if half < needed and half <= there else ""
    return (
        f"model {shown(str(name))}: its weights need {needed / _GIB:.1f} GiB in {chosen}, and the whole memory of "
        f"{device} is {there / _GIB:.1f} GiB; expect a failure: {less}another --device or a smaller model may fit"
    )


def weight_bytes(name: str | Path, dtype: str, revision: str = "main") -> int | None:
    """Returns the size of a checkpoint's weights after their conversion, in bytes.

    Args:
        name: See `load`.
        dtype: Precision to which floating-point weights are converted, of `DTYPES`.
        revision: Branch, tag or commit of a hub ID.

    Returns:
        The size; None if it is not known: files are missing, not downloaded or damaged, or a type is unknown.
    """
    width, total = getattr(torch, dtype).itemsize * 8, 0
    try:
        files = _files(name, revision)
        for file in files:
            with safe_open(file, "pt") as tensors:
                for part in map(tensors.get_slice, tensors.keys()):
                    kind = part.get_dtype()
                    total += prod(part.get_shape()) * (width if kind in FLOATING else _BITS[kind])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError):
        return None
    return total // 8 if files else None


def _files(name: str | Path, revision: str) -> list[Path]:
    """Returns the files of the weights that transformers would read; a hub ID has them if they are in its cache."""
    source = folder_of(name)
    if not Path(source).is_dir():
        config = internal("utils.hub.cached_file")(source, "config.json", revision=revision, local_files_only=True)
        source = str(Path(str(config)).parent)
    whole, index = Path(source) / "model.safetensors", Path(source) / "model.safetensors.index.json"
    if whole.exists():
        return [whole]
    named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [Path(source) / file for file in sorted(set(named))]
