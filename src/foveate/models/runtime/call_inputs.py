"""Reads the arguments of a stock model's `generate` or `forward`, and refuses those that compression cannot support."""

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
    """Refuses images in a direct call of the model's inner model, where they would not be compressed.

    Raises:
        FoveateError: The inner model is called with pixels.
    """
    inputs = named_arguments(module.forward, args, kwargs) if args else kwargs
    if pixels_of(adapter, inputs) is not None:
        raise FoveateError(
            f"{type(module).__name__} was called inside the `with` block, where only calls of "
            f"{type(adapter.model).__name__} are compressed: call the latter, or leave the `with` block"
        )


def check_inputs(adapter: Adapter, inputs: dict[str, Any]) -> None:
    """Refuses arguments that do not define a prompt that can be compressed.

    Raises:
        ValueError: The positions of the images in the prompts are undefined, or images are given twice.
        FoveateError: The caller gives positions, a mask that is not one of padding, or an option that cuts images.
    """
    if inputs.get("input_ids") is None:
        raise ValueError("input_ids are missing: image tokens cannot be found in inputs_embeds, give input_ids instead")
    if inputs.get("inputs_embeds") is not None:
        raise ValueError("input_ids and inputs_embeds were both given: give input_ids only")
    if inputs.get("vision_feature_layer") is not None:
        raise ValueError("vision_feature_layer cannot be changed per call: set it in the model's configuration")
    if inputs.get("vision_feature_select_strategy") is not None:
        raise ValueError(
            "vision_feature_select_strategy cannot be changed per call: set it in the model's configuration"
        )
    if pixels_of(adapter, inputs) is not None and features_of(adapter, inputs) is not None:
        names = " or ".join(kind.image_inputs[0] for kind in adapter.apart)
        raise ValueError(f"{names} and mm_encoder_outputs were both given: give one of them")
    check_positions(inputs)
    if adapter.decoder.both_ways and option_of(inputs, adapter, "prefill_chunk_size") is not None:
        raise FoveateError(
            "chunked prefill (prefill_chunk_size) cuts images, whose tokens attend to each other in both directions in "
            f"{type(adapter.model).__name__}: switch it off"
        )
    mask = inputs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        given = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise FoveateError(
            f"attention_mask ({given}): the pairs of tokens that it names change when tokens are removed; expected a "
            "padding mask of shape (batch, token), or none"
        )


def check_positions(inputs: dict[str, Any]) -> None:
    """Refuses `position_ids` of the caller.

    Raises:
        FoveateError: The caller gives `position_ids`.
    """
    if inputs.get("position_ids") is not None:
        raise FoveateError(
            "position_ids were given: a compressed prompt has fewer tokens, and the method sets their positions; leave "
            "position_ids out"
        )


def check_images(adapter: Adapter, inputs: dict[str, Any]) -> None:
    """Refuses calls without images.

    Raises:
        FoveateError: The call has no image.
    """
    if not has_images(adapter, inputs):
        kinds = " and no ".join(f"{kind.modality} ({kind.image_inputs[0]})" for kind in adapter.kinds)
        raise FoveateError(
            f"this call has no {kinds} and no mm_encoder_outputs, so there is nothing to compress: leave the `with` "
            "block for such prompts"
        )


def check_cut_options(inputs: dict[str, Any], adapter: Adapter, cuts: Sequence[Cut], generating: bool) -> None:
    """Refuses options that do not work with cuts inside the language model.

    Raises:
        FoveateError: The call has such an option.
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
        "gradient checkpointing, which runs blocks again after the cuts are removed,": torch.is_grad_enabled()
        and any(block.training and getattr(block, "gradient_checkpointing", False) for block in adapter.decoder.blocks),
    }
    for reason, given in reasons.items():
        if given:
            raise FoveateError(
                f"{reason} does not work with a method that cuts inside the language model, where blocks hold "
                "different tokens: switch it off, or use a method that compresses before the language model"
            )


def limits_of(inputs: dict[str, Any], adapter: Adapter, removed: int) -> dict[str, int]:
    """Returns `max_length` and `min_length` reduced by the number of removed tokens."""
    option, limits = partial(option_of, inputs, adapter), {}
    for name, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if option(new) is None and (total := option(name)):
            limits[name] = max(1, total - removed)
    return limits


def option_of(inputs: dict[str, Any], adapter: Adapter, name: str) -> Any:  # noqa: ANN401
    """Returns an option of `generate`: the call's, else that of its `generation_config`, else the model's."""
    sources = (inputs.get("generation_config"), adapter.model.generation_config)
    values = (inputs.get(name), *(getattr(source, name, None) for source in sources))
    return next((value for value in values if value is not None), None)


def pixels_of(adapter: Adapter, inputs: dict[str, Any]) -> Tensor | None:
    """Returns the pixels of the images, else those of the videos, or None."""
    return next((p for kind in adapter.kinds if (p := inputs.get(kind.image_inputs[0])) is not None), None)


def features_of(adapter: Adapter, inputs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Returns the features of images in `mm_encoder_outputs`, else those of videos, or None."""
    outputs = inputs.get("mm_encoder_outputs") or {}
    return next((found for kind in adapter.kinds if (found := outputs.get(kind.modality)) is not None), None)


def has_images(adapter: Adapter, inputs: dict[str, Any]) -> bool:
    """Returns whether there are images, as pixels or as features."""
    return pixels_of(adapter, inputs) is not None or bool(features_of(adapter, inputs))


def given_images(adapter: Adapter, features: Any) -> GivenImages:  # noqa: ANN401
    """Returns images of which only the features are given.

    Raises:
        ValueError: The images have different numbers of tokens, or the model does not have a fixed grid.
    """
    counts = [len(image) for image in features]
    if len(set(counts)) != 1:
        raise ValueError(f"mm_encoder_outputs holds {counts} tokens: expected equally many for every image")
    tokens = features if isinstance(features, Tensor) else torch.stack(list(features))
    if not adapter.fixed_grid:
        raise ValueError(
            f"{type(adapter.model).__name__} with mm_encoder_outputs: the shape of an image cannot be derived from its "
            f"tokens; give {adapter.image_inputs[0]}"
        )
    return GivenImages(tokens, Arrangement((adapter.tower.grid,)))


def named_arguments(function: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns all arguments of a call by name, those of `**kwargs` included."""
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    return {**{name: value for name, value in bound.items() if name != "kwargs"}, **bound.get("kwargs", {})}


def with_prompt(output: Any, prompt: Tensor, shortened: int) -> Any:  # noqa: ANN401
    """Replaces the shortened prompt in the output of `generate` by the caller's prompt."""
    sequences = sequences_of(output)
    prompts = prompt.repeat_interleave(len(sequences) // len(prompt), 0)
    sequences = torch.cat([prompts, sequences[:, shortened:]], 1)
    if isinstance(output, Tensor):
        return sequences
    output.sequences = sequences
    return output


def sequences_of(output: Any) -> Tensor:  # noqa: ANN401
    """Returns the tokens in the output of `generate`."""
    return output if isinstance(output, Tensor) else output.sequences
