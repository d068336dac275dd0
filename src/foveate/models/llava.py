"""Adapter for LLaVA-1.5: a CLIP-like tower, a projector, a causal language model."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.errors import FoveateError, UnsupportedModel, UnsupportedNeed
from foveate.core.needs import ClsRows, Fingerprint, Need, resolve_layers
from foveate.core.types import Compression, Grid, Trace
from foveate.functional.attention import attention_rows
from foveate.functional.fingerprint import fingerprints
from foveate.functional.sequence import gather_left_padded, positions, scatter_kept
from foveate.models.tap import tapped

Compress = Callable[[Tensor, Trace], Compression]
_ATTACHED = "_foveate_attached"


@dataclass(frozen=True)
class Tower:
    """What can be known of a vision tower before it runs; `feature_layer` writes the language model's input."""

    depth: int
    feature_layer: int
    has_cls: bool
    grid: Grid


class Llava:
    """Runs the parts of a stock `LlavaForConditionalGeneration` one by one."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        self.model = model
        self.text_config: Any = model.config.text_config
        self.inner = model.model
        self.language_model = model.model.language_model
        transformer: Any = getattr(self.inner.vision_tower, "vision_model", self.inner.vision_tower)
        if not hasattr(transformer, "encoder") or not hasattr(transformer, "embeddings"):
            raise UnsupportedModel(
                f"{type(transformer).__name__} as vision tower is not supported; CLIP and SigLIP are"
            )
        self._attention = {layer.self_attn: i for i, layer in enumerate(transformer.encoder.layers)}
        self.tower = _describe(model, transformer)

    @property
    def image_token(self) -> int:
        return self.model.config.image_token_id

    @property
    def pad_token(self) -> int:
        return self.text_config.pad_token_id or 0

    def layers(self, need: ClsRows) -> tuple[int, ...]:
        """The tower's layers that a need names.

        Raises:
            UnsupportedNeed: The tower has no [CLS] token.
            LayerError: A layer is out of range.
        """
        if not self.tower.has_cls:
            name = type(self.inner.vision_tower).__name__
            raise UnsupportedNeed(
                f"{need}: {name} has no [CLS] token whose attention could be read; use another scorer"
            )
        return resolve_layers(need.layers, self.tower.depth, self.tower.feature_layer)

    def check(self, needs: Sequence[Need]) -> None:
        """Raises what `encode` would raise for these needs, without a picture."""
        for need in needs:
            if isinstance(need, ClsRows):
                self.layers(need)

    def encode(
        self, pixels: Float[Tensor, "image channel height width"], needs: Sequence[Need]
    ) -> tuple[Float[Tensor, "image patch dim"], Trace]:
        """Features before the projector, and what a scorer needs.

        Raises:
            UnsupportedNeed: The model cannot answer a need from pictures.
            LayerError: A layer is out of range.
        """
        wanted = {need: self.layers(need) for need in needs if isinstance(need, ClsRows)}
        recorded = frozenset(layer for layers in wanted.values() for layer in layers)
        rows: dict[int, Tensor] = {}

        def listen(layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
            if layer in recorded:
                rows[layer] = attention_rows(query.detach()[:, :, :1], key.detach(), scaling)[:, :, 0, 1:]

        with tapped(self.inner.vision_tower, self._attention, listen) if recorded else nullcontext():
            features = self._features(pixels)
        values: dict[Need, Tensor] = {}
        for need in needs:
            match need:
                case ClsRows():
                    values[need] = torch.stack([rows[layer] for layer in wanted[need]], 1)
                case Fingerprint():
                    values[need] = fingerprints(pixels)
                case _:
                    raise UnsupportedNeed(f"{need}: {type(self.model).__name__} cannot answer it from pictures alone")
        return features, Trace(values, self.tower.grid, len(pixels))

    def _features(self, pixels: Tensor) -> Tensor:
        """What `get_image_features` hands to the projector."""
        chosen = self.model.config.vision_feature_layer
        states = self.inner.vision_tower(pixels.to(self.model.dtype), output_hidden_states=True).hidden_states
        features = torch.cat([states[i] for i in ([chosen] if isinstance(chosen, int) else chosen)], -1)
        return features[:, 1:] if self.tower.has_cls else features

    def compressed_inputs(
        self, inputs: dict[str, Any], features: Tensor, compression: Compression, repack: bool
    ) -> dict[str, Any]:
        """Model inputs in which every image has only its compressed tokens, left-padded.

        Args:
            inputs: `input_ids` with all placeholders; `attention_mask` and `labels` if any; the rest passes through.
            features: (image, patch, dim) before the projector, images in reading order.
            compression: One row per image.
            repack: Number the remaining tokens consecutively; else each keeps the position it had.

        Raises:
            ValueError: The placeholders are not as many as the patches of the images.
        """
        ids = inputs["input_ids"]
        mask = self._mask(ids) if inputs.get("attention_mask") is None else inputs["attention_mask"]
        placeholder = ids == self.image_token
        if int(placeholder.sum()) != features.shape[0] * features.shape[1]:
            raise ValueError(
                f"input_ids hold {int(placeholder.sum())} image tokens, but {features.shape[0]} images of "
                f"{features.shape[1]} patches need {features.shape[0] * features.shape[1]}: build the inputs with the "
                "model's own processor"
            )
        stay = scatter_kept(placeholder, compression.origin, features.shape[1]) & mask.bool()
        index, real = gather_left_padded(stay)
        ours = ("pixel_values", "input_ids", "attention_mask", "position_ids", "labels")
        result = {name: value for name, value in inputs.items() if name not in ours}
        result["input_ids"] = ids.gather(1, index).masked_fill(~real, self.pad_token)
        result["attention_mask"] = real.long()
        place = positions(real) if repack else positions(mask.bool()).gather(1, index)
        result["position_ids"] = place.masked_fill(~real, 0)
        if inputs.get("labels") is not None:
            result["labels"] = inputs["labels"].gather(1, index).masked_fill(~real, -100)
        tokens = self.inner.multi_modal_projector(compression.apply(features))
        per_image: Any = list(tokens)  # what transformers passes, though it declares one tensor
        result["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=per_image)}
        return result

    @contextmanager
    def compressing(self, needs: Sequence[Need], compress: Compress, repack: bool) -> Iterator[None]:
        """While active, `generate` and `forward` of the stock model see compressed images.

        `generate` still returns the full prompt followed by the new tokens, so that callers who cut off the prompt by
        its length go on working. On leaving, the model is as it was.
        """
        model: Any = self.model
        if _ATTACHED in vars(model):
            raise FoveateError("this model already has a compressor attached: leave its `with` first")
        before = {name: vars(model).get(name) for name in ("generate", "forward")}
        generate, forward = model.generate, model.forward

        def shorten(inputs: dict[str, Any]) -> dict[str, Any]:
            if inputs.get("input_ids") is None:
                raise ValueError("compression needs input_ids: image tokens cannot be found in inputs_embeds")
            if inputs.get("vision_feature_layer") is not None:
                raise ValueError("vision_feature_layer cannot be changed per call: set it in the model's configuration")
            features, trace = self.encode(inputs["pixel_values"], needs)
            return self.compressed_inputs(inputs, features, compress(features, trace), repack)

        @wraps(generate)
        def compressed_generate(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (as in transformers)
            inputs = _by_name(generate, args, kwargs)
            if inputs.get("pixel_values") is None:
                return generate(**inputs)
            if inputs.get("inputs") is not None:
                inputs["input_ids"] = inputs.pop("inputs")
            with torch.no_grad():
                shortened = shorten(inputs)
            return _with_prompt(generate(**shortened), inputs["input_ids"], shortened["input_ids"].shape[1])

        @wraps(forward)
        def compressed_forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            inputs = _by_name(forward, args, kwargs)
            return forward(**(inputs if inputs.get("pixel_values") is None else shorten(inputs)))

        model.generate, model.forward = compressed_generate, compressed_forward
        setattr(model, _ATTACHED, True)
        try:
            yield
        finally:
            delattr(model, _ATTACHED)
            for name, function in before.items():
                delattr(model, name) if function is None else setattr(model, name, function)

    def _mask(self, ids: Tensor) -> Tensor:
        """What `generate` assumes without a mask: padding is not read, unless it is also what ends an answer."""
        ends = self.model.generation_config.eos_token_id
        pad = self.text_config.pad_token_id
        if pad is None or pad in (ends if isinstance(ends, list) else [ends]):
            return torch.ones_like(ids)
        return ids.ne(pad).long()


def _by_name(function: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name; those of `**kwargs` too."""
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    return {**{name: value for name, value in bound.items() if name != "kwargs"}, **bound.get("kwargs", {})}


def _with_prompt(output: Any, prompt: Tensor, shortened: int) -> Any:  # noqa: ANN401
    """Puts the caller's prompt in the place of the shortened one."""
    sequences = output if isinstance(output, Tensor) else output.sequences
    prompts = prompt.repeat_interleave(len(sequences) // len(prompt), 0)
    sequences = torch.cat([prompts, sequences[:, shortened:]], 1)
    if isinstance(output, Tensor):
        return sequences
    output.sequences = sequences
    return output


def _describe(model: LlavaForConditionalGeneration, transformer: Any) -> Tower:  # noqa: ANN401 (CLIP, SigLIP, ...)
    config: Any = model.config
    depth = len(transformer.encoder.layers)
    chosen = config.vision_feature_layer
    last = chosen if isinstance(chosen, int) else max(chosen, key=lambda layer: layer % (depth + 1))
    has_cls = hasattr(transformer.embeddings, "class_embedding")
    if has_cls != (config.vision_feature_select_strategy == "default"):
        raise UnsupportedModel(
            f"vision_feature_select_strategy={config.vision_feature_select_strategy!r} with a "
            f"{type(transformer).__name__}: supported are 'default' for towers with [CLS] and 'full' for towers without"
        )
    side = config.vision_config.image_size // config.vision_config.patch_size
    # hidden_states[i] is the input of layer i, so it is layer i - 1 that wrote it
    return Tower(depth, last % (depth + 1) - 1, has_cls, Grid(side, side))
