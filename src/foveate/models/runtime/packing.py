"""Replaces the placeholders of prompts by the tokens of compressed images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.arrangement import Arrangement
from foveate.core.checks import refuse_unranked, unranked
from foveate.core.compression import Compressed
from foveate.core.needs import Deepstack, Role
from foveate.core.trace import EXTRA, PADDING
from foveate.core.transfer import on_device, on_host
from foveate.functional.sequence import positions, repeat_left_padded
from foveate.models.backbone.adapter import Adapter
from foveate.models.backbone.decoder import Layout, extent_of

_REPLACED = ("input_ids", "attention_mask", "position_ids", "labels", "mm_encoder_outputs")


@dataclass(frozen=True, eq=False)
class _Slots:
    """The tokens of each image in the order of the prompt.

    Attributes:
        token: Index among the image's tokens, -1 for separators.
        offset: Offset among the image's placeholders.
        place: Offset of the placeholder in whose place the token stands, ascending; it differs from `offset` if tokens
            are not in raster order.
        real: Marks the slots that are not padding.
    """

    token: Int[Tensor, "image slot"]
    offset: Int[Tensor, "image slot"]
    place: Int[Tensor, "image slot"]
    real: Bool[Tensor, "image slot"]


@dataclass(frozen=True, eq=False)
class _Sequence:
    """The tokens of the shortened prompts, left-padded.

    Attributes:
        index: Column of the full prompt in whose place each token stands.
        real: Marks the tokens that are not padding.
        visual: Marks the tokens of images.
        image: The image of a token, in reading order.
        token: Index among the image's tokens, -1 for separators.
        column: Column of the full prompt whose position each token has.
    """

    index: Int[Tensor, "batch token"]
    real: Bool[Tensor, "batch token"]
    visual: Bool[Tensor, "batch token"]
    image: Int[Tensor, "batch token"]
    token: Int[Tensor, "batch token"]
    column: Int[Tensor, "batch token"]

    def gathered(self, values: Tensor, fill: int) -> Tensor:
        """Returns values of the full prompts for these tokens, `fill` for padding."""
        return values.gather(1, self.index).masked_fill(~self.real, fill)

    @property
    def separator(self) -> Tensor:
        return self.visual & (self.token < 0)

    @property
    def role(self) -> Tensor:
        """The `Role` of each token."""
        role = torch.where(_after_last(self.visual), Role.QUESTION, Role.BEFORE).masked_fill(self.visual, Role.VISUAL)
        return role.masked_fill(self.separator, Role.SEPARATOR).masked_fill(~self.real, Role.PADDING)


def pack(
    adapter: Adapter, inputs: dict[str, Any], compressed: Compressed, repack: bool, device: torch.device | None = None
) -> tuple[dict[str, Any], Layout]:
    """Returns model inputs in which every image has only its compressed tokens, left-padded, and their layout.

    Indices are computed on the host, so that a device waits for the numbers of tokens once, and not for each index.

    Args:
        adapter: The model's adapter.
        inputs: `input_ids` with all placeholders, `attention_mask` and `labels` if any; other inputs are passed on.
        compressed: One row per image, images in reading order.
        repack: Whether to number the tokens consecutively; otherwise each keeps its position, and an extra one takes
            that of the token before it. Positions with three axes are always kept.
        device: Device of the results; None means that of `input_ids`.

    Raises:
        ValueError: The number of placeholders does not match the images.
    """
    target: torch.device = device or inputs["input_ids"].device
    inputs = host_inputs(adapter, inputs)
    ids, mask, origin = inputs["input_ids"], prompt_mask(adapter, inputs), _origins(compressed)
    placeholder = adapter.is_placeholder(ids)
    counts, ends = torch.stack([placeholder.sum(1), (placeholder & _last(mask)).sum(1)]).tolist()
    prompts, slots = prompts_of(counts, compressed.arrangements), _slots(compressed, origin)
    sequence = _sequence(placeholder, mask, compressed.arrangements, slots)
    real = sequence.real
    patch = _patches(sequence, origin, prompts)
    role = sequence.role
    if repack and adapter.position_axes == 1:
        position, following, resumed = positions(real)[None], real.sum(1), None
    else:
        position, following, resumed = _kept_positions(adapter, inputs, compressed.arrangements, sequence)
    position = position.masked_fill(~real, 0)
    tokens = _tokens(compressed.tokens, adapter.any_separator, slots)
    deep = [_tokens(level, None, slots) for level in _deepstack(adapter, compressed)]
    encoded = [name for kind in adapter.kinds for name in kind.image_inputs]
    result = {name: v for name, v in inputs.items() if name not in (*_REPLACED, *encoded)}
    result["input_ids"] = sequence.gathered(ids, adapter.pad_token)
    result["attention_mask"] = real.long()
    result["position_ids"] = position[0] if adapter.position_axes == 1 else torch.cat([positions(real)[None], position])
    if inputs.get("labels") is not None:  # the first real token has no logits
        result["labels"] = sequence.gathered(inputs["labels"], -100).masked_fill(real.cumsum(1) == 1, -100)
    for name in adapter.token_inputs:
        if inputs.get(name) is not None:
            result[name] = sequence.gathered(inputs[name], 0)
    made = {name for name in result if name not in inputs or result[name] is not inputs[name]}
    result |= {name: on_device(result[name], target) for name in made}
    others = inputs.get("mm_encoder_outputs") or {}  # of kinds that the adapter does not handle
    result["mm_encoder_outputs"] = {**others, **_outputs(adapter, compressed.arrangements, tokens, deep)}
    late = following - position[:, :, -1] - 1 if any(ends) else None
    everything = torch.cat([compressed.tokens[:0].flatten(0, 1), *tokens])
    flat, extent = [torch.cat(level) for level in deep], extent_of(role)
    layout = Layout(role, patch, position, following, prompts, everything, flat, late, resumed, extent)
    return result, layout.to(target)


def host_inputs(adapter: Adapter, inputs: dict[str, Any], pixels: bool = False) -> dict[str, Any]:
    """Returns the inputs with the prompts, sizes of images, times of videos and what adapters derive on the host.

    Args:
        adapter: The model's adapter.
        inputs: The inputs of a call.
        pixels: Whether the pixels are read too.
    """
    for kind in adapter.kinds:
        inputs = {**inputs, **kind.derived(inputs)}
    sizes = {name for kind in adapter.kinds for name in kind.image_inputs[1:]}
    names = ("input_ids", "attention_mask", "labels", *adapter.token_inputs, *sorted(sizes))
    found = {
        name: value
        for name in names
        if isinstance(value := inputs.get(name), Tensor) and value.ndim <= (1 if value.is_floating_point() else 2)
    }
    if pixels:
        found |= pixel_inputs(adapter, inputs)
    return {**inputs, **dict(zip(found, on_host(*found.values()), strict=True))}


def pixel_inputs(adapter: Adapter, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the pixels of the images and videos of a call, by name."""
    names = (kind.image_inputs[0] for kind in adapter.kinds)
    return {name: value for name in names if (value := inputs.get(name)) is not None}


def prompt_mask(adapter: Adapter, inputs: dict[str, Any]) -> Bool[Tensor, "batch token"]:
    """Returns the padding mask of the prompts: the caller's, or the one that `generate` assumes."""
    given = inputs.get("attention_mask")
    return (adapter.mask(inputs["input_ids"]) if given is None else given).bool()


def _last(mask: Tensor) -> Tensor:
    """Marks the last real token of each row."""
    return mask & (mask.flip(1).cumsum(1).flip(1) == 1)


def _origins(compressed: Compressed) -> Tensor:
    """Returns the origins of all tokens on the host, which waits here for the choice.

    Raises:
        FoveateError: Scores are NaN or infinite, which nothing reads on a device before.
    """
    scores, patches = compressed.decision.scores, [arrangement.patches for arrangement in compressed.arrangements]
    origin = compressed.decision.compression.origin
    if scores.device.type in ("cpu", "meta") or not patches:
        return on_host(origin)[0]
    padding = torch.arange(scores.shape[1]) >= torch.tensor(patches)[:, None]
    wrong = unranked(scores).masked_fill(on_device(padding, scores.device), False).sum()
    origin, wrong = on_host(origin, wrong)
    refuse_unranked(int(wrong), sum(patches), "the compressor before the language model")
    return origin


def _slots(compressed: Compressed, origin: Int[Tensor, "image token"]) -> _Slots:
    """Orders the tokens of each image for the prompt.

    A token has the offset of its patch, and separators keep theirs; an extra token follows the token before it.
    """
    real = origin != PADDING
    if not len(origin):
        return _Slots(origin, origin, origin, real)
    runs = pad_sequence([arrangement.offsets for arrangement in compressed.arrangements], batch_first=True)
    own = torch.where(origin >= 0, runs.gather(1, origin.clamp(min=0)), -1) if origin.shape[1] else origin
    key = own.cummax(1).values if origin.shape[1] else origin  # extra tokens sort with the token before them
    offset = torch.where(origin == EXTRA, key.clamp(min=0), own.clamp(min=0))
    token = torch.arange(origin.shape[1]).expand_as(origin)
    kept = [
        torch.tensor(a.separators if compressed.separators else (), dtype=torch.long) for a in compressed.arrangements
    ]
    breaks = pad_sequence(kept, batch_first=True, padding_value=PADDING)
    if not breaks.shape[1]:
        return _Slots(token, offset, key.clamp(min=0), real)
    real = torch.cat([real, breaks >= 0], 1)
    place = torch.cat([key, breaks], 1)
    order = place.masked_fill(~real, max(a.length for a in compressed.arrangements)).argsort(dim=1, stable=True)
    token, offset = torch.cat([token, torch.full_like(breaks, -1)], 1), torch.cat([offset, breaks.clamp(min=0)], 1)
    return _Slots(*(values.gather(1, order) for values in (token, offset, place.clamp(min=0), real)))


def _sequence(placeholder: Tensor, mask: Tensor, arrangements: Sequence[Arrangement], slots: _Slots) -> _Sequence:
    """Replaces each placeholder by the slots in its place, and pads on the left."""
    lengths = torch.tensor([0, *(image.length for image in arrangements)])
    starts = lengths.cumsum(0)
    ordinal = (placeholder.flatten().cumsum(0) - 1).reshape(placeholder.shape).clamp(min=0)
    image = torch.searchsorted(starts[1:], ordinal, right=True).clamp(max=max(0, len(arrangements) - 1))
    within = ordinal - starts[image]
    places = slots.token.new_zeros(max(1, len(arrangements)), max((image.length for image in arrangements), default=1))
    if filled := slots.token.numel() > 0:
        places.scatter_add_(1, slots.place, slots.real.long())
    index, real, nth = repeat_left_padded(torch.where(placeholder, places[image, within], (mask & ~placeholder).long()))
    visual = placeholder.gather(1, index) & real
    owner = image.gather(1, index).masked_fill(~visual, 0)
    if not filled:
        return _Sequence(index, real, visual, owner, torch.full_like(index, PADDING), index)
    slot = (places.cumsum(1) - places)[owner, within.gather(1, index).masked_fill(~visual, 0)] + nth
    slot = slot.masked_fill(~visual, 0)
    columns = torch.zeros_like(places)
    columns[image[placeholder], within[placeholder]] = placeholder.nonzero()[:, 1]
    column = torch.where(visual, columns[owner, slots.offset[owner, slot]], index)
    return _Sequence(index, real, visual, owner, slots.token[owner, slot], column)


def _patches(sequence: _Sequence, origin: Tensor, prompts: Sequence[Sequence[Arrangement]]) -> Tensor:
    """Returns `Layout.patch`: patches are numbered across all images of a prompt."""
    patch = torch.full_like(sequence.index, PADDING)
    if len(origin):
        own = F.pad(origin, (0, 1), value=PADDING)[sequence.image, sequence.token.clamp(min=0)]
        before = torch.tensor(_patches_before(prompts), dtype=torch.long)
        patch = torch.where(own >= 0, before[sequence.image] + own, own)
    return patch.masked_fill(~sequence.visual | sequence.separator, PADDING)


def _kept_positions(
    adapter: Adapter, inputs: dict[str, Any], arrangements: Sequence[Arrangement], sequence: _Sequence
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the positions of the tokens in the full prompts, and `Layout.following` and `Layout.resumed`."""
    mask = prompt_mask(adapter, inputs)
    ids = F.pad(inputs["input_ids"], (0, 1), value=adapter.pad_token)  # a word after the prompt, to see its position
    rope = adapter.rope({**inputs, "input_ids": ids}, F.pad(mask.long(), (0, 1), value=1), arrangements)
    position = rope.gather(2, sequence.column.expand(adapter.position_axes, -1, -1))
    return position, rope[0, :, -1], rope[..., :-1].masked_fill(~mask, -1).amax((0, 2)) + 1


def _tokens(tokens: Tensor, separator: Tensor | None, slots: _Slots) -> list[Tensor]:
    """Returns the input embeddings of each image, separators included."""
    if separator is not None:  # appended as the last token, which index -1 selects
        last = separator.to(tokens).expand(len(tokens), 1, -1)
        tokens = torch.cat([tokens, last], 1)
    picked = [token[real] % tokens.shape[1] for token, real in zip(slots.token, slots.real, strict=True)]
    index = torch.cat([slots.token[:0].flatten(), *(row * tokens.shape[1] + own for row, own in enumerate(picked))])
    rows = tokens.flatten(0, 1).index_select(0, on_device(index, tokens.device))
    return list(rows.split([len(own) for own in picked]))


def _deepstack(adapter: Adapter, compressed: Compressed) -> list[Tensor]:
    """Returns the DeepStack features of each level, compressed like the tokens."""
    if not adapter.deepstack_levels:
        return []
    return [compressed.decision.compression.apply(level) for level in compressed.carried[Deepstack()].unbind(1)]


def _outputs(
    adapter: Adapter, arrangements: Sequence[Arrangement], tokens: Sequence[Tensor], deep: Sequence[Sequence[Tensor]]
) -> dict[str, BaseModelOutputWithPooling]:
    """Returns the features of images and of videos as the stock model takes them, by modality."""
    outputs = {}
    for kind in adapter.apart:
        own = [row for row, one in enumerate(arrangements) if adapter.shares_inputs or adapter.of(one) is kind]
        if own:
            levels = [[level[row] for row in own] for level in deep]
            outputs[kind.modality] = kind.output([tokens[row] for row in own], levels)
    return outputs


def prompts_of(found: Sequence[int], arrangements: Sequence[Arrangement]) -> list[list[Arrangement]]:
    """Assigns images to prompts.

    Args:
        found: Number of placeholders of each prompt.
        arrangements: The arrangements of all images in reading order.

    Raises:
        ValueError: The number of placeholders does not match the images.
    """
    left, prompts = list(arrangements), []
    for count in found:
        images: list[Arrangement] = []
        while left and sum(image.length for image in images) < count:
            images.append(left.pop(0))
        prompts.append(images)
    if left or any(sum(i.length for i in images) != count for images, count in zip(prompts, found, strict=True)):
        raise ValueError(
            f"input_ids hold {list(found)} image tokens per prompt, but the images need runs of "
            f"{[image.length for image in arrangements]}: build the inputs with the model's own processor"
        )
    return prompts


def in_reading_order(
    ids: Int[Tensor, "batch token"], found: Sequence[tuple[int, Sequence[Arrangement]]]
) -> list[Arrangement]:
    """Returns the arrangements of the images and videos of a call in the order of their placeholders.

    Args:
        ids: The prompts with all placeholders.
        found: The placeholder of each kind, and the arrangements of that kind in their order.
    """
    if len(found) == 1:
        return list(found[0][1])
    left = {token: list(arrangements) for token, arrangements in found}
    stream = [token for token in ids.flatten().tolist() if token in left]
    ordered, place = [], 0
    while place < len(stream) and left[stream[place]]:
        ordered.append(left[stream[place]].pop(0))
        place += ordered[-1].length
    return ordered + [one for arrangements in left.values() for one in arrangements]


def _patches_before(prompts: Sequence[Sequence[Arrangement]]) -> list[int]:
    """Returns for each image the number of patches of earlier images in its prompt."""
    return [sum(other.patches for other in images[:i]) for images in prompts for i in range(len(images))]


def _after_last(visual: Tensor) -> Tensor:
    """Marks the tokens after the last visual one of each row."""
    return visual.flip(1).cumsum(1).flip(1) == 0
