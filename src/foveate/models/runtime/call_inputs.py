"""What a call of a stock model's `generate` or `forward` gives, and what of it compression cannot work with."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StaticCache

from foveate.core.arrangement import Arrangement
from foveate.core.contracts import Cut
from foveate.core.errors import FoveateError
from foveate.core.needs import PromptRows, TokenKeys
from foveate.models.backbone.adapter import Adapter
from foveate.models.runtime.images import GivenImages
from foveate.models.runtime.kv_cache import cache_of


def check_inner(adapter: Adapter, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    """Refuses a call of the model's inner model, which would not compress.

    Raises:
        FoveateError: It is given images itself.
    """
    inputs = by_name(module.forward, args, kwargs) if args else kwargs
    if inputs.get(adapter.image_inputs[0]) is not None:
        raise FoveateError(
            f"{type(module).__name__} was called inside the `with`, where only calls of {type(adapter.model).__name__} "
            "are compressed: call that, or leave the `with`"
        )


def check_inputs(adapter: Adapter, inputs: dict[str, Any]) -> None:
    """Refuses what no compressed prompt can be made of.

    Raises:
        ValueError: What is given does not determine where the images stand, or says it twice.
        FoveateError: Positions or a mask of the caller's own.
    """
    if inputs.get("input_ids") is None:
        raise ValueError("compression needs input_ids: image tokens cannot be found in inputs_embeds")
    if inputs.get("inputs_embeds") is not None:
        raise ValueError("give input_ids or inputs_embeds, not both: embeddings are not shortened")
    if inputs.get("vision_feature_layer") is not None:
        raise ValueError("vision_feature_layer cannot be changed per call: set it in the model's configuration")
    if inputs.get("vision_feature_select_strategy") is not None:
        raise ValueError("vision_feature_select_strategy cannot be changed per call: it belongs to the model")
    if pixels_of(adapter, inputs) is not None and given_of(adapter, inputs) is not None:
        raise ValueError(f"give {adapter.image_inputs[0]} or mm_encoder_outputs, not both")
    check_positions(inputs)
    mask = inputs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        given = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise FoveateError(
            f"attention_mask ({given}): who attends to whom changes where tokens are removed; expected the mask of "
            "padding, of shape (batch, token), or none"
        )


def check_positions(inputs: dict[str, Any]) -> None:
    """Refuses positions of the caller's own.

    Raises:
        FoveateError: There are some.
    """
    if inputs.get("position_ids") is not None:
        raise FoveateError(
            "position_ids of the caller's own: a compressed prompt has fewer tokens, which the method places; leave "
            "position_ids out"
        )


def check_images(adapter: Adapter, inputs: dict[str, Any]) -> None:
    """Refuses calls without images.

    Raises:
        FoveateError: There is none.
    """
    if not has_images(adapter, inputs):
        raise FoveateError(
            f"this call has no {adapter.modality} (neither {adapter.image_inputs[0]} nor mm_encoder_outputs), so there "
            "is nothing to compress: leave the `with` for prompts without one"
        )


def refuse_with_cuts(inputs: dict[str, Any], adapter: Adapter, cuts: Sequence[Cut], generating: bool) -> None:
    """Refuses what a method that cuts inside the language model cannot work with.

    Raises:
        FoveateError: There is something of the kind.
    """
    option, cache = partial(option_of, inputs, adapter), cache_of(inputs)
    static = isinstance(cache, StaticCache) or "static" in str(option("cache_implementation"))
    sliding = "sliding" in str(option("cache_implementation")) or any(getattr(cache, "is_sliding", ()))
    attentions = option("output_attentions") or getattr(adapter.model.config, "output_attentions", False)
    reads = any(isinstance(need, PromptRows | TokenKeys) for cut in cuts for need in cut.needs)
    reasons = {
        "chunked prefill (prefill_chunk_size)": option("prefill_chunk_size") is not None,
        "assisted decoding": inputs.get("assistant_model") is not None
        or option("prompt_lookup_num_tokens") is not None,
        "decoding without a cache (use_cache=False)": generating and option("use_cache") is False,
        "a loss (labels)": inputs.get("labels") is not None,
        "a static cache on a GPU": static
        and not {adapter.model.device.type, inputs["input_ids"].device.type} <= {"cpu", "meta"},
        "a sliding-window cache": sliding,
        "returning attentions (output_attentions=True)": bool(attentions) and reads,
        "gradient checkpointing, which runs blocks again when the cuts are gone,": torch.is_grad_enabled()
        and any(block.training and getattr(block, "gradient_checkpointing", False) for block in adapter.decoder.blocks),
    }
    for reason, given in reasons.items():
        if given:
            raise FoveateError(
                f"{reason} does not work with a method that cuts inside the language model, where every block knows "
                "other tokens: switch it off, or use a method that compresses before the language model"
            )


def limits_of(inputs: dict[str, Any], adapter: Adapter, removed: int) -> dict[str, int]:
    """Limits of the whole length, which count the prompt as the caller knows it, for the shortened prompt."""
    option, limits = partial(option_of, inputs, adapter), {}
    for name, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if option(new) is None and (total := option(name)):
            limits[name] = max(1, total - removed)
    return limits


def option_of(inputs: dict[str, Any], adapter: Adapter, name: str) -> Any:  # noqa: ANN401
    """Returns an option of `generate` as transformers merges it: the call's, its configuration's, then the model's."""
    sources = (inputs.get("generation_config"), adapter.model.generation_config)
    values = (inputs.get(name), *(getattr(source, name, None) for source in sources))
    return next((value for value in values if value is not None), None)


def pixels_of(adapter: Adapter, inputs: dict[str, Any]) -> Tensor | None:
    """Returns the pixels of the images, if they are given."""
    return inputs.get(adapter.image_inputs[0])


def given_of(adapter: Adapter, inputs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Returns the features of the images, if they are given."""
    return (inputs.get("mm_encoder_outputs") or {}).get(adapter.modality)


def has_images(adapter: Adapter, inputs: dict[str, Any]) -> bool:
    """Tells whether there are images, as pixels or as features."""
    return pixels_of(adapter, inputs) is not None or bool(given_of(adapter, inputs))


def with_other_modalities(adapter: Adapter, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs of `forward` with what is not compressed encoded as `generate` does: all of it or nothing may be."""
    others = {}
    for modality, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if modality != adapter.modality and inputs.get(pixels) is not None:
            encode = getattr(adapter.inner, f"get_{modality}_features")
            given = {name: inputs[name] for name in inspect.signature(encode).parameters if name in inputs}
            others[modality] = encode(**given, return_dict=True)
            inputs = {name: value for name, value in inputs.items() if name != pixels}
    return {**inputs, "mm_encoder_outputs": {**others, **inputs["mm_encoder_outputs"]}}


def given_images(adapter: Adapter, given: Any) -> GivenImages:  # noqa: ANN401
    """Images of which only the tokens are given.

    Raises:
        ValueError: Nothing but their number could tell how they lie, and this model has images of any size.
    """
    counts = [len(image) for image in given]
    if len(set(counts)) != 1:
        raise ValueError(f"mm_encoder_outputs holds {counts} tokens: expected equally many of every image")
    tokens = given if isinstance(given, Tensor) else torch.stack(list(given))
    if not adapter.fixed_grid:
        raise ValueError(
            f"{type(adapter.model).__name__} with mm_encoder_outputs: its images have different shapes, which tokens "
            f"alone do not tell; give {adapter.image_inputs[0]}"
        )
    return GivenImages(tokens, Arrangement((adapter.tower.grid,)))


def runs_of(placeholder: Tensor) -> list[int]:
    """Lengths of the runs of placeholders, in reading order."""
    edges = torch.nn.functional.pad(placeholder.int(), (1, 1)).diff(dim=1)
    return ((edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]).tolist()


def by_name(function: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name; those of `**kwargs` too."""
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    return {**{name: value for name, value in bound.items() if name != "kwargs"}, **bound.get("kwargs", {})}


def with_prompt(output: Any, prompt: Tensor, shortened: int) -> Any:  # noqa: ANN401
    """Puts the caller's prompt in the place of the shortened one."""
    sequences = output if isinstance(output, Tensor) else output.sequences
    prompts = prompt.repeat_interleave(len(sequences) // len(prompt), 0)
    sequences = torch.cat([prompts, sequences[:, shortened:]], 1)
    if isinstance(output, Tensor):
        return sequences
    output.sequences = sequences
    return output
