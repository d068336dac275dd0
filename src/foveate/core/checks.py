"""Checks what plug-ins return: types and shapes always, values where that waits for no device.

Where a value lies does not matter: it is moved to where it is needed. Values are looked at on the CPU, and on other
devices only those of plug-ins from elsewhere, which costs a synchronisation each; what is wrong there would end in an
error of the device that names nobody.
"""

from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from foveate.core.compression import Block, Compressed, Compression, Decision
from foveate.core.contracts import AroundCut, ImageBatch, Reduction, Scorer, Selector
from foveate.core.errors import FoveateError, shown
from foveate.core.trace import EXTRA, PADDING, Trace


def checked_scores(
    scores: object, scorer: Scorer, trace: Trace, device: torch.device, padding: Tensor | None = None
) -> Tensor:
    """Returns the scores if they are numbers, one for each patch, or -inf for what is not there.

    Args:
        scores: As the scorer gave them.
        scorer: It.
        trace: What it has read.
        device: Where they are needed.
        padding: (batch, patch) bool, what is no token and gets the score -inf.

    Raises:
        FoveateError: They have another type or shape, or some are NaN or infinite.
    """
    found = _tensor(scores, scorer, "scores", (trace.batch, _left(trace)), floating=True)
    found = _moved(found, scorer, device)
    found = found if padding is None else found.masked_fill(padding.to(device), -torch.inf)
    if wrong := int((found.isnan() | (found == torch.inf)).sum()):
        raise FoveateError(
            f"{scorer} gave {wrong} of {found.numel()} scores as NaN or infinite, by which nothing can be chosen: "
            "look for overflow (half precision?) or for a division by zero in the scorer"
        )
    return found


def checked_choice(kept: object, selector: Selector, trace: Trace, scores: Tensor) -> Tensor:
    """Returns the kept patches if they are whole numbers of patches that are there, each once, a row for each image.

    Args:
        kept: As the selector gave them.
        selector: It.
        trace: What it has read.
        scores: What it was given; -inf where there is nothing to keep.

    Raises:
        FoveateError: They are something else.
    """
    found = _tensor(kept, selector, "kept patches", (trace.batch, None), floating=False)
    found = _moved(found, selector, scores.device)
    if found.numel() and _looked_at(selector, found.device):
        patches = scores.shape[1]
        ascending, order = found.sort(dim=1, stable=True)
        again = torch.zeros_like(found, dtype=torch.bool)
        again[:, 1:] = (ascending[:, 1:] == ascending[:, :-1]) & (ascending[:, 1:] >= 0)
        nothing = scores.gather(1, found.clamp(0, patches - 1)) == -torch.inf
        _refuse_first(
            selector,
            found,
            {
                f"expected 0..{patches - 1}, or PADDING ({PADDING})": (found < PADDING) | (found >= patches),
                "it stands there twice, expected each patch once": torch.zeros_like(again).scatter_(1, order, again),
                "its score is -inf: there is nothing to keep": nothing & (found >= 0),
                f"it stands behind PADDING ({PADDING}), which ends a row": _behind_padding(found),
            },
        )
    return found


def checked_compression(
    made: object, plugin: object, batch: int, patches: int, sources: int, device: torch.device
) -> Compression:
    """Returns what a merger made if it fits the tokens that it was given.

    Args:
        made: By the plug-in.
        plugin: It.
        batch: Number of images.
        patches: Places that tokens can take.
        sources: Tokens of each image that it was given: the patches and, in a tower that has one, [CLS].
        device: Where it is needed.

    Raises:
        FoveateError: It has another type or shape, a place does not exist, or a weight is NaN or infinite.
    """
    if not isinstance(made, Compression):
        raise FoveateError(f"{plugin} gave {_described(made)}: expected a Compression")
    origin = _moved(_tensor(made.origin, plugin, "origins", (batch, None), floating=False), plugin, device)
    mixing = made.mixing
    if mixing is not None:
        mixed = mixing.shape[-1] if isinstance(mixing, Tensor) and mixing.ndim else None
        expected = mixed if mixed is not None and mixed <= sources else sources  # [CLS] may be left out
        shape = (batch, origin.shape[1], expected)
        mixing = _moved(_tensor(mixing, plugin, "mixing weights", shape, floating=True), plugin, device)
    if origin.numel() and _looked_at(plugin, origin.device):
        known = f"expected 0..{patches - 1}, EXTRA ({EXTRA}) or PADDING ({PADDING})"
        wrong = {
            known: (origin < EXTRA) | (origin >= patches),
            f"it stands behind PADDING ({PADDING}), which ends a row": _behind_padding(origin),
        }
        if mixing is not None:
            wrong["a weight of its mixing is NaN or infinite"] = ~mixing.isfinite().all(-1)
        _refuse_first(plugin, origin, wrong)
    return made if origin is made.origin and mixing is made.mixing else Compression(origin, mixing)


def checked_decision(made: object, plugin: object, batch: int, patches: int, device: torch.device) -> Decision:
    """Returns what a cut decided if it fits the visual tokens that it was given.

    Args:
        made: By the cut.
        plugin: It.
        batch: Number of prompts.
        patches: Visual tokens of each.
        device: Where it is needed.

    Raises:
        FoveateError: It has another type or shape, or names a token that does not exist.
    """
    if not isinstance(made, Decision):
        raise FoveateError(f"{plugin} gave {_described(made)}: expected a Decision")
    scores = _moved(_tensor(made.scores, plugin, "scores", (batch, patches), floating=True), plugin, device)
    return Decision(scores, checked_compression(made.compression, plugin, batch, patches, patches, device))


def checked_compressed(made: object, compressor: object, images: ImageBatch) -> Compressed:
    """Returns what a compressor made of images if it fits them.

    Args:
        made: By the compressor.
        compressor: It.
        images: What it was given.

    Raises:
        FoveateError: It has another type, its parts are not of as many images and tokens, or they name patches that the
            images do not have.
    """
    if not isinstance(made, Compressed):
        raise FoveateError(f"{compressor} gave {_described(made)}: expected a Compressed")
    rows, patches = len(made.arrangements), images.arrangement.patches
    if any(arrangement != images.arrangement for arrangement in made.arrangements):
        raise FoveateError(f"{compressor} gave another arrangement than that of the images: expected it unchanged")
    tokens = _tensor(made.tokens, compressor, "tokens", (rows, None, None), floating=True)
    if not isinstance(made.decision, Decision):
        raise FoveateError(f"{compressor} gave {_described(made.decision)} as its decision: expected a Decision")
    _tensor(made.decision.scores, compressor, "scores", (rows, patches), floating=True)
    compression = made.decision.compression
    mixing = getattr(compression, "mixing", None)
    sources = mixing.shape[-1] if isinstance(mixing, Tensor) and mixing.ndim else patches
    device = compression.origin.device if isinstance(getattr(compression, "origin", None), Tensor) else tokens.device
    found = checked_compression(compression, compressor, rows, patches, sources, device)
    if found.origin.shape[1] != tokens.shape[1]:
        raise FoveateError(
            f"{compressor} gave {tokens.shape[1]} tokens of each image and the origins of {found.origin.shape[1]}: "
            "expected an origin for each"
        )
    return made


def checked_step(made: object, reduction: Reduction, block: Block) -> tuple[Compression, Tensor | None]:
    """Returns what a reduction makes of a block's tokens if it fits them.

    Args:
        made: By the reduction.
        reduction: It.
        block: What it was given.

    Raises:
        FoveateError: It is no compression with a state, has another shape, names a token that does not exist, or does
            not leave [CLS] where it was.
    """
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[1], Tensor | None):
        raise FoveateError(f"{reduction} gave {_described(made)}: expected a Compression and a tensor or None")
    batch, tokens = block.key.shape[0], block.key.shape[2]
    step = checked_compression(made[0], reduction, batch, tokens, tokens, block.key.device)
    mixed = tokens if step.mixing is None else step.mixing.shape[2]
    if mixed != tokens:
        raise FoveateError(f"{reduction} gave mixing weights of {mixed} tokens: expected those of all {tokens}")
    if _looked_at(reduction, step.origin.device):
        if not step.origin.shape[1] or (block.has_cls and bool((step.origin[:, 0] != 0).any())):
            raise FoveateError(
                f"{reduction} moved or dropped [CLS] in block {block.layer}: expected it first, as it was"
            )
    return step, made[1]


class CheckedCut(AroundCut):
    """A cut whose decisions are checked."""

    def cut(self, states: Tensor, trace: Trace) -> Decision:
        batch, tokens = states.shape[:2]
        return checked_decision(self.inner.cut(states, trace), self.inner, batch, tokens, states.device)


def _left(trace: Trace) -> int:
    """How many patches a row has: at a cut those that are left."""
    return trace.patches if trace.place is None else trace.place.shape[1]


def _looked_at(plugin: object, device: torch.device) -> bool:
    """Tells whether to read the values that a plug-in gave on a device."""
    return device.type == "cpu" or (device.type != "meta" and not _ours(plugin))


def _ours(plugin: object) -> bool:
    """Tells whether a plug-in and all that it holds are of this package, whose tests say that values are right."""
    if isinstance(plugin, tuple):
        return all(map(_ours, plugin))
    if not is_dataclass(plugin):
        return isinstance(plugin, bool | int | float | str | None)
    ours = type(plugin).__module__.partition(".")[0] == "foveate"
    return ours and all(_ours(getattr(plugin, field.name)) for field in fields(plugin))


def _behind_padding(values: Tensor) -> Tensor:
    behind = torch.zeros_like(values, dtype=torch.bool)
    behind[:, 1:] = (values[:, :-1] == PADDING) & (values[:, 1:] != PADDING)
    return behind


def _refuse_first(plugin: object, values: Tensor, wrong: dict[str, Tensor]) -> None:
    """Refuses the first of the values for which something is wrong.

    Args:
        plugin: Gave them.
        values: (batch, value).
        wrong: By what was expected: for which values it is not so.
    """
    found = torch.stack([flags.any() for flags in wrong.values()]).tolist()
    for (expected, flags), is_wrong in zip(wrong.items(), found, strict=True):
        if is_wrong:
            row, column = flags.nonzero()[0].tolist()
            raise FoveateError(f"{plugin} gave {int(values[row, column])} for image {row} of the batch: {expected}")


def _moved(value: Tensor, plugin: object, device: torch.device) -> Tensor:
    if value.is_meta and device.type != "meta":
        raise FoveateError(
            f"{plugin} gave {_described(value)} on the meta device, which holds no values: expected some"
        )
    return value.to(device)


def _tensor(value: object, plugin: object, what: str, shape: tuple[int | None, ...], floating: bool) -> Tensor:
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
