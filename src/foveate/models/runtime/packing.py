"""From prompts with placeholders and compressed images to what the language model is given."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compressed
from foveate.core.needs import Deepstack, Role
from foveate.core.trace import EXTRA, PADDING
from foveate.functional.sequence import positions, repeat_left_padded
from foveate.models.backbone.adapter import Adapter
from foveate.models.backbone.decoder import Layout

_REPLACED = ("input_ids", "attention_mask", "position_ids", "labels", "mm_encoder_outputs")


def pack(
    adapter: Adapter, inputs: dict[str, Any], compressed: Compressed, repack: bool
) -> tuple[dict[str, Any], Layout]:
    """Model inputs in which every image has only its compressed tokens, left-padded, and what its tokens are.

    Args:
        adapter: Of the model.
        inputs: `input_ids` with all placeholders; `attention_mask` and `labels` if any; the rest passes through.
        compressed: One row per image, images in reading order.
        repack: Number the tokens consecutively; else each keeps the position it had, and one without a place takes
            that of the token before it. Positions with three axes are always kept.

    Raises:
        ValueError: The placeholders are not as many as the images need.
    """
    ids, mask = inputs["input_ids"], prompt_mask(adapter, inputs)
    placeholder = ids == adapter.image_token
    arrangements, device = compressed.arrangements, ids.device
    counts, ends = torch.stack([placeholder.sum(1), (placeholder & _last(mask)).sum(1)]).tolist()
    per_prompt = prompts_of(counts, arrangements)
    lengths = torch.tensor([0, *(image.length for image in arrangements)], device=device)
    starts = lengths.cumsum(0)
    ordinal = (placeholder.flatten().cumsum(0) - 1).reshape(ids.shape).clamp(min=0)
    image = torch.searchsorted(starts[1:], ordinal, right=True).clamp(max=max(0, len(arrangements) - 1))
    first = placeholder & (ordinal == starts[image])
    slots, offsets, there_slots = _woven(compressed)
    repeats = torch.where(first, there_slots.sum(1)[image] if len(slots) else 0, (mask & ~placeholder).long())
    index, there, nth = repeat_left_padded(repeats)

    def moved(values: Tensor, fill: int) -> Tensor:
        return values.gather(1, index).masked_fill(~there, fill)

    visual = moved(placeholder.long(), 0).bool()
    owner, at = moved(image, 0), nth.clamp(max=max(0, slots.shape[1] - 1))
    slot = slots[owner, at] if slots.numel() else torch.full_like(index, PADDING)
    origin = torch.nn.functional.pad(compressed.decision.compression.origin.to(device), (0, 1), value=PADDING)
    separator = visual & (slot < 0)
    own = origin[owner, slot.clamp(min=0)] if len(origin) else torch.full_like(index, PADDING)
    before = torch.tensor(_patches_before(per_prompt), device=device, dtype=torch.long)
    place = torch.where(own >= 0, before[owner] + own, own) if len(before) else own
    place = place.masked_fill(~visual | separator, PADDING)
    role = torch.where(_after_last(visual), Role.QUESTION, Role.BEFORE).masked_fill(visual, Role.VISUAL)
    role = role.masked_fill(separator, Role.SEPARATOR).masked_fill(~there, Role.PADDING)
    if repack and adapter.position_axes == 1:
        position, following = positions(there)[None], there.sum(1)
    else:
        came = torch.where(visual, index + (offsets[owner, at] if offsets.numel() else 0), index)
        rope = adapter.rope(inputs, mask.long(), arrangements)
        position = rope.gather(2, came.expand(adapter.position_axes, -1, -1))
        following = rope.masked_fill(~mask, -1).amax((0, 2)) + 1
    position = position.masked_fill(~there, 0)
    result = {name: v for name, v in inputs.items() if name not in (*_REPLACED, *adapter.image_inputs)}
    result["input_ids"] = moved(ids, adapter.pad_token)
    result["attention_mask"] = there.long()
    result["position_ids"] = (
        position[0] if adapter.position_axes == 1 else torch.cat([positions(there)[None], position])
    )
    if inputs.get("labels") is not None:  # nothing foretells the first token, least of all the padding before it
        result["labels"] = moved(inputs["labels"], -100).masked_fill(there.cumsum(1) == 1, -100)
    tokens = _tokens(compressed.tokens, adapter.separator, slots, there_slots)
    deep = [_tokens(level, None, slots, there_slots) for level in _deep(adapter, compressed)]
    others = inputs.get("mm_encoder_outputs") or {}
    result["mm_encoder_outputs"] = {**others, adapter.modality: adapter.output(tokens, deep)}
    flat = [torch.cat(level) for level in deep]
    everything = torch.cat([compressed.tokens[:0].flatten(0, 1), *tokens])
    late = following - position[:, :, -1] - 1 if any(ends) else None
    return result, Layout(role, place, position, following, per_prompt, everything, flat, late)


def prompt_mask(adapter: Adapter, inputs: dict[str, Any]) -> Bool[Tensor, "batch token"]:
    """Returns which tokens of the prompts are no padding."""
    given = inputs.get("attention_mask")
    return (adapter.mask(inputs["input_ids"]) if given is None else given).bool()


def _last(mask: Tensor) -> Tensor:
    """Marks the last real token of each row."""
    return mask & (mask.flip(1).cumsum(1).flip(1) == 1)


def _woven(
    compressed: Compressed,
) -> tuple[Int[Tensor, "image slot"], Int[Tensor, "image slot"], Tensor]:
    """Of each image its tokens in the order of the prompt, -1 for separators; their places in the run; which are there.

    A token stands where its patch stood, one without a place behind the token before it, and separators where they did.
    """
    origin, real = compressed.decision.compression.origin, compressed.decision.compression.real
    device = origin.device
    if not len(origin):
        return origin, origin, real
    runs = pad_sequence([arrangement.offsets for arrangement in compressed.arrangements], batch_first=True).to(device)
    own = torch.where(origin >= 0, runs.gather(1, origin.clamp(min=0)), -1) if origin.shape[1] else origin
    key = own.cummax(1).values if origin.shape[1] else origin  # behind all that came before
    offset = torch.where(origin == EXTRA, key.clamp(min=0), own.clamp(min=0))
    number = torch.arange(origin.shape[1], device=device).expand_as(origin)
    kept = [
        torch.tensor(a.separators if compressed.separators else (), dtype=torch.long) for a in compressed.arrangements
    ]
    breaks = pad_sequence(kept, batch_first=True, padding_value=PADDING).to(device)
    if not breaks.shape[1]:
        return number, offset, real
    there = torch.cat([real, breaks >= 0], 1)
    order = torch.cat([key, breaks], 1).masked_fill(~there, max(a.length for a in compressed.arrangements))
    order = order.argsort(dim=1, stable=True)
    slots, offset = torch.cat([number, torch.full_like(breaks, -1)], 1), torch.cat([offset, breaks.clamp(min=0)], 1)
    return slots.gather(1, order), offset.gather(1, order), there.gather(1, order)


def _tokens(tokens: Tensor, separator: Tensor | None, slots: Tensor, there: Tensor) -> list[Tensor]:
    """Of each image what the language model is given."""
    if separator is not None:  # as one more token, which slot -1 means
        last = separator.to(tokens).expand(len(tokens), 1, -1)
        tokens = torch.cat([tokens, last], 1)
    return [rows[slot[real]] for rows, slot, real in zip(tokens, slots, there, strict=True)]


def _deep(adapter: Adapter, compressed: Compressed) -> list[Tensor]:
    """What is added behind each of the first blocks, compressed as the tokens are."""
    if not adapter.deepstack_levels:
        return []
    return [compressed.decision.compression.apply(level) for level in compressed.carried[Deepstack()].unbind(1)]


def prompts_of(found: Sequence[int], arrangements: Sequence[Arrangement]) -> list[list[Arrangement]]:
    """The images of each prompt, which has so many placeholders.

    Raises:
        ValueError: They do not fit.
    """
    left, prompts = list(arrangements), []
    for count in found:
        images: list[Arrangement] = []
        while left and sum(image.length for image in images) < count:
            images.append(left.pop(0))
        prompts.append(images)
    if left or any(sum(i.length for i in images) != count for images, count in zip(prompts, found, strict=True)):
        raise ValueError(
            f"input_ids hold {list(found)} image tokens, but these images need runs of "
            f"{[image.length for image in arrangements]}: build the inputs with the model's own processor"
        )
    return prompts


def _patches_before(prompts: Sequence[Sequence[Arrangement]]) -> list[int]:
    """For each image how many patches the images before it in its prompt have."""
    return [sum(other.patches for other in images[:i]) for images in prompts for i in range(len(images))]


def _after_last(visual: Tensor) -> Tensor:
    """Whether no visual token follows."""
    return visual.flip(1).cumsum(1).flip(1) == 0
