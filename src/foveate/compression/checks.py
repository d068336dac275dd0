"""Checks what plug-ins return: types and shapes, which waits for no device, and scores for NaN, which does."""

import torch
from torch import Tensor

from foveate.core.contracts import Merger, Plugin, Scorer, Selector
from foveate.core.errors import FoveateError, shown
from foveate.core.types import Compression, Trace


def checked_scores(scores: object, scorer: Scorer, trace: Trace, padding: Tensor | None = None) -> Tensor:
    """Returns the scores if they are numbers, one for each patch, or -inf for what is not there.

    Args:
        scores: As the scorer gave them.
        scorer: It.
        trace: What it has read.
        padding: (batch, patch) bool, what is no token and gets the score -inf.

    Raises:
        FoveateError: They have another type or shape, or some are NaN or infinite.
    """
    patches = trace.patches if trace.place is None else trace.place.shape[1]  # at a cut those that are left
    found = _tensor(scores, scorer, "scores", (trace.batch, patches), floating=True)
    found = found if padding is None else found.masked_fill(padding, -torch.inf)
    if wrong := int((found.isnan() | (found == torch.inf)).sum()):
        raise FoveateError(
            f"{scorer} gave {wrong} of {found.numel()} scores as NaN or infinite, by which nothing can be chosen: "
            "look for overflow (half precision?) or for a division by zero in the scorer"
        )
    return found


def checked_choice(kept: object, selector: Selector, trace: Trace) -> Tensor:
    """Returns the kept patches if they are whole numbers, a row for each image.

    Raises:
        FoveateError: They have another type or shape.
    """
    return _tensor(kept, selector, "kept patches", (trace.batch, None), floating=False)


def checked_compression(made: object, merger: Merger, batch: int, sources: int) -> Compression:
    """Returns what a merger made if it fits the tokens that it was given.

    Args:
        made: By the merger.
        merger: It.
        batch: Number of images.
        sources: Tokens of each that it was given.

    Raises:
        FoveateError: It has another type or shape.
    """
    if not isinstance(made, Compression):
        raise FoveateError(f"{merger} gave {_described(made)}: expected a Compression")
    origin = _tensor(made.origin, merger, "origins", (batch, None), floating=False)
    if made.mixing is not None:
        mixed = made.mixing.shape[-1] if isinstance(made.mixing, Tensor) and made.mixing.ndim else None
        expected = mixed if mixed is not None and mixed <= sources else sources  # [CLS] may be left out
        _tensor(made.mixing, merger, "mixing weights", (batch, origin.shape[1], expected), floating=True)
    return made


def _tensor(value: object, plugin: Plugin, what: str, shape: tuple[int | None, ...], floating: bool) -> Tensor:
    kind = "floating-point" if floating else "whole"
    expected = f"{kind} {what} of shape ({', '.join('any' if size is None else str(size) for size in shape)})"
    if isinstance(value, Tensor) and value.ndim == len(shape):
        fits = all(size is None or size == found for size, found in zip(shape, value.shape, strict=True))
        whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
        if fits and (value.is_floating_point() if floating else whole):
            return value
    raise FoveateError(f"{plugin} gave {_described(value)}: expected a tensor of {expected}, one row for each image")


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}"
    return f"{type(value).__module__}.{type(value).__qualname__} {shown(value)}"
