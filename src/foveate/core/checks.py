"""Checks what plug-ins return: types and shapes always, values where reading them costs no synchronisation.

Results may be on any device; they are moved to where they are needed. Values are read on the CPU. On other devices only
values of plug-ins from other packages are read, at the cost of a synchronisation each, because a wrong value would
otherwise end in a device error that does not name the plug-in.
"""

from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from foveate.core.compression import Block, Compressed, Compression, Decision
from foveate.core.contracts import AroundCut, ImageBatch, Reduction, Scorer, Selector
from foveate.core.errors import FoveateError, shown
from foveate.core.trace import EXTRA, PADDING, Trace
from foveate.core.transfer import on_device


def checked_scores(
    scores: object, scorer: Scorer, trace: Trace, device: torch.device, padding: Tensor | None = None
) -> Tensor:
    """Returns the scores of a scorer after checking that there is one number, or -inf, per patch.

    Args:
        scores: The scorer's result.
        scorer: The scorer.
        trace: The trace that it read.
        device: Device of the result.
        padding: Mask (batch, patch) of padding, which gets the score -inf.

    Raises:
        FoveateError: The type or shape is wrong, or scores are NaN or infinite.
    """
    found = _tensor(scores, scorer, "scores", (trace.batch, _left(trace)), floating=True)
    found = _moved(found, scorer, device)
    found = found if padding is None else found.masked_fill(padding.to(device), -torch.inf)
    if reads_values(scorer, found.device):  # elsewhere together with what was chosen
        refuse_unranked(int(unranked(found).sum()), found.numel(), scorer)
    return found


def unranked(scores: Tensor) -> Tensor:
    """Marks scores that cannot be ranked: those that are NaN or infinite, but not -inf."""
    return scores.isnan() | (scores == torch.inf)


def refuse_unranked(count: int, total: int, source: object) -> None:
    """Refuses `total` scores of which `count` cannot be ranked.

    Raises:
        FoveateError: There are some.
    """
    if count:
        raise FoveateError(
            f"{source} gave {count} of {total} scores as NaN or infinite, which cannot be ranked: look for "
            "overflow (half precision?) or for a division by zero in the scorer"
        )


def checked_choice(kept: object, selector: Selector, trace: Trace, scores: Tensor) -> Tensor:
    """Returns the kept patches of a selector after checking that they exist, each once, with a row per image.

    Args:
        kept: The selector's result.
        selector: The selector.
        trace: The trace that it read.
        scores: The scores that it read; -inf for patches that cannot be kept.

    Raises:
        FoveateError: The type, the shape or a patch is wrong.
    """
    found = _tensor(kept, selector, "kept patches", (trace.batch, None), floating=False)
    found = _moved(found, selector, scores.device)
    if found.numel() and reads_values(selector, found.device):
        patches = scores.shape[1]
        ascending, order = found.sort(dim=1, stable=True)
        repeated = torch.zeros_like(found, dtype=torch.bool)
        repeated[:, 1:] = (ascending[:, 1:] == ascending[:, :-1]) & (ascending[:, 1:] >= 0)
        absent = scores.gather(1, found.clamp(0, patches - 1)) == -torch.inf
        _refuse_first(
            selector,
            found,
            {
                f"expected 0..{patches - 1}, or PADDING ({PADDING})": (found < PADDING) | (found >= patches),
                "it is kept twice, expected each patch once": torch.zeros_like(repeated).scatter_(1, order, repeated),
                "its score is -inf, so it cannot be kept": absent & (found >= 0),
                f"it comes after PADDING ({PADDING}), which ends a row": _after_padding(found),
            },
        )
    return found


def checked_compression(
    made: object, plugin: object, batch: int, patches: int, sources: int, device: torch.device
) -> Compression:
    """Returns a compression after checking that it fits the tokens that it was made of.

    Args:
        made: The plug-in's result.
        plugin: The plug-in.
        batch: Number of images.
        patches: Number of patches whose positions tokens can take.
        sources: Number of sources of each image: the patches, and [CLS] if the tower has one.
        device: Device of the result.

    Raises:
        FoveateError: The type or shape is wrong, a patch does not exist, or a weight is NaN or infinite.
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
    if origin.numel() and reads_values(plugin, origin.device):
        known = f"expected 0..{patches - 1}, EXTRA ({EXTRA}) or PADDING ({PADDING})"
        wrong = {
            known: (origin < EXTRA) | (origin >= patches),
            f"it comes after PADDING ({PADDING}), which ends a row": _after_padding(origin),
        }
        if mixing is not None:
            wrong["a weight of its mixing is NaN or infinite"] = ~mixing.isfinite().all(-1)
        _refuse_first(plugin, origin, wrong)
    return made if origin is made.origin and mixing is made.mixing else Compression(origin, mixing)


def checked_decision(made: object, plugin: object, batch: int, patches: int, device: torch.device) -> Decision:
    """Returns the decision of a cut after checking that it fits the visual tokens.

    Args:
        made: The cut's result.
        plugin: The cut.
        batch: Number of prompts.
        patches: Number of visual tokens of each prompt.
        device: Device of the result.

    Raises:
        FoveateError: The type or shape is wrong, or a token does not exist.
    """
    if not isinstance(made, Decision):
        raise FoveateError(f"{plugin} gave {_described(made)}: expected a Decision")
    scores = _moved(_tensor(made.scores, plugin, "scores", (batch, patches), floating=True), plugin, device)
    return Decision(scores, checked_compression(made.compression, plugin, batch, patches, patches, device))


def checked_compressed(made: object, compressor: object, images: ImageBatch) -> Compressed:
    """Returns the result of a compressor after checking that it fits the images.

    Args:
        made: The compressor's result.
        compressor: The compressor.
        images: The images.

    Raises:
        FoveateError: The type is wrong, its parts differ in the number of images or tokens, or a patch does not exist.
    """
    if not isinstance(made, Compressed):
        raise FoveateError(f"{compressor} gave {_described(made)}: expected a Compressed")
    rows, patches = len(made.arrangements), images.arrangement.patches
    if any(arrangement != images.arrangement for arrangement in made.arrangements):
        raise FoveateError(f"{compressor} gave another arrangement than that of the images: expected the same")
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
    """Returns the result of a reduction after checking that it fits the block's tokens.

    Args:
        made: The reduction's result.
        reduction: The reduction.
        block: The block.

    Raises:
        FoveateError: The type or shape is wrong, a token does not exist, or [CLS] is not first and unchanged.
    """
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[1], Tensor | None):
        raise FoveateError(f"{reduction} gave {_described(made)}: expected a Compression and a tensor or None")
    batch, tokens = block.key.shape[0], block.key.shape[2]
    step = checked_compression(made[0], reduction, batch, tokens, tokens, block.key.device)
    mixed = tokens if step.mixing is None else step.mixing.shape[2]
    if mixed != tokens:
        raise FoveateError(f"{reduction} gave mixing weights of {mixed} tokens: expected those of all {tokens}")
    if reads_values(reduction, step.origin.device):
        moved = block.has_cls and reduction.keeps_cls and bool((step.origin[:, :1] != 0).any())
        if not step.origin.shape[1] or moved:
            raise FoveateError(
                f"{reduction} moved or dropped [CLS] in block {block.layer}: expected it first and unchanged"
            )
    return step, made[1]


class CheckedCut(AroundCut):
    """A cut with checks of its decisions."""

    def cut(self, states: Tensor, trace: Trace) -> Decision:
        batch, tokens = states.shape[:2]
        return checked_decision(self.inner.cut(states, trace), self.inner, batch, tokens, states.device)


def _left(trace: Trace) -> int:
    """Returns the length of the patch axis."""
    return trace.origins.shape[1]


def reads_values(plugin: object, device: torch.device) -> bool:
    """Returns whether to read values of a plug-in that are on this device."""
    if torch.compiler.is_exporting():
        return False
    return device.type == "cpu" or (device.type != "meta" and not _ours(plugin))


def _ours(plugin: object) -> bool:
    """Returns whether a plug-in and its fields belong to this package, whose tests cover their values."""
    if isinstance(plugin, tuple):
        return all(map(_ours, plugin))
    if not is_dataclass(plugin):
        return isinstance(plugin, bool | int | float | str | None)
    ours = type(plugin).__module__.partition(".")[0] == "foveate"
    return ours and all(_ours(getattr(plugin, field.name)) for field in fields(plugin))


def _after_padding(values: Tensor) -> Tensor:
    after = torch.zeros_like(values, dtype=torch.bool)
    after[:, 1:] = (values[:, :-1] == PADDING) & (values[:, 1:] != PADDING)
    return after


def _refuse_first(plugin: object, values: Tensor, wrong: dict[str, Tensor]) -> None:
    """Raises an error for the first wrong value, if there is one.

    Args:
        plugin: The plug-in that gave the values.
        values: Values (batch, value).
        wrong: For each expectation, the mask of the values that violate it.
    """
    found = torch.stack([flags.any() for flags in wrong.values()]).tolist()
    for (expected, flags), is_wrong in zip(wrong.items(), found, strict=True):
        if is_wrong:
            row, column = flags.nonzero()[0].tolist()
            raise FoveateError(f"{plugin} gave {int(values[row, column])} for image {row} of the batch: {expected}")


def _moved(value: Tensor, plugin: object, device: torch.device) -> Tensor:
    if value.is_meta and device.type != "meta":
        raise FoveateError(
            f"{plugin} gave {_described(value)} on the meta device, which holds no values: expected another device"
        )
    return on_device(value, device)


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
