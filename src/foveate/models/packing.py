"""From prompts with placeholders and compressed images to what the language model is given."""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.needs import Role
from foveate.core.types import EXTRA, PADDING, Compressed
from foveate.functional.sequence import positions, repeat_left_padded
from foveate.models.decoder import Layout
from foveate.models.llava import Llava

_REPLACED = ("pixel_values", "input_ids", "attention_mask", "position_ids", "labels", "mm_encoder_outputs")


def pack(llava: Llava, inputs: dict[str, Any], compressed: Compressed, repack: bool) -> tuple[dict[str, Any], Layout]:
    """Model inputs in which every image has only its compressed tokens, left-padded, and what its tokens are.

    Args:
        llava: The model.
        inputs: `input_ids` with all placeholders; `attention_mask` and `labels` if any; the rest passes through.
        compressed: One row per image, images in reading order.
        repack: Number the tokens consecutively; else each keeps the position it had, and one without a place takes
            that of the token before it.

    Raises:
        ValueError: The placeholders are not as many as the patches of the images.
    """
    ids, patches = inputs["input_ids"], compressed.carried.grid.patches
    mask = (llava.mask(ids) if inputs.get("attention_mask") is None else inputs["attention_mask"]).bool()
    placeholder = ids == llava.image_token
    origin, real = compressed.decision.compression.origin, compressed.decision.compression.real
    _check(placeholder.sum(1), len(origin), patches)
    ordinal = (placeholder.flatten().cumsum(0) - 1).reshape(ids.shape).clamp(min=0)
    image = ordinal // patches
    first = placeholder & (ordinal % patches == 0)
    repeats = torch.where(first, real.sum(1)[image], (mask & ~placeholder).long())
    index, there, nth = repeat_left_padded(repeats)

    def moved(values: Tensor, fill: int) -> Tensor:
        return values.gather(1, index).masked_fill(~there, fill)

    visual = moved(placeholder.long(), 0).bool()
    own = origin[moved(image, 0), nth.clamp(max=origin.shape[1] - 1)] if origin.numel() else torch.zeros_like(index)
    before = torch.where(first, torch.cat([torch.zeros(1, device=ids.device), first.sum(1)[:-1]]).cumsum(0)[:, None], 0)
    within_prompt = moved(image - before.long(), 0)
    place = torch.where(own >= 0, within_prompt * patches + own, own).masked_fill(~visual, PADDING)
    role = torch.where(_after_last(visual), Role.QUESTION, Role.BEFORE).masked_fill(visual, Role.VISUAL)
    if repack:
        position = positions(there)
    else:
        start = moved(positions(mask), 0)
        position = torch.where(visual, start + own.clamp(min=0), start)
        position = torch.where(visual & (own == EXTRA), position.cummax(1).values, position)
    result = {name: value for name, value in inputs.items() if name not in _REPLACED}
    result["input_ids"] = moved(ids, llava.pad_token)
    result["attention_mask"] = there.long()
    result["position_ids"] = position.masked_fill(~there, 0)
    if inputs.get("labels") is not None:
        result["labels"] = moved(inputs["labels"], -100)
    per_image: Any = [tokens[own] for tokens, own in zip(compressed.tokens, real, strict=True)]
    result["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=per_image)}
    layout = Layout(
        role.masked_fill(~there, Role.PADDING), place, result["position_ids"], placeholder.sum(1) // patches
    )
    return result, layout


def _check(found: Tensor, images: int, patches: int) -> None:
    if int(found.sum()) != images * patches or (found % patches).any():
        raise ValueError(
            f"input_ids hold {found.tolist()} image tokens, but {images} images of {patches} patches need "
            f"{images * patches} in runs of {patches}: build the inputs with the model's own processor"
        )


def _after_last(visual: Tensor) -> Tensor:
    """Whether no visual token follows."""
    return visual.flip(1).cumsum(1).flip(1) == 0
