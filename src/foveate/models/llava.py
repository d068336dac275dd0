"""Adapter for LLaVA-1.5: a CLIP-like tower, a projector, a causal language model."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from foveate.core.contracts import Cut, Reduction
from foveate.core.errors import UnsupportedModel, UnsupportedNeed
from foveate.core.needs import (
    ClsQuery,
    ClsRows,
    Downsampled,
    Features,
    Fingerprint,
    Keys,
    Need,
    ReceivedRows,
    resolve_layer,
    resolve_layers,
)
from foveate.core.types import Compression, Grid
from foveate.functional.attention import attention_rows, mean_attention
from foveate.functional.fingerprint import fingerprints
from foveate.models.cutting import check_stages
from foveate.models.decoder import Decoder
from foveate.models.tap import tapped
from foveate.models.tower import reduced


@dataclass(frozen=True)
class Tower:
    """What can be known of a vision tower before it runs; `feature_layer` writes the language model's input."""

    depth: int
    heads: int
    feature_layer: int
    has_cls: bool
    grid: Grid


class Llava:
    """Runs the parts of a stock `LlavaForConditionalGeneration` one by one."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        self.model = model
        self.text_config: Any = model.config.text_config
        self.inner = model.model
        self.decoder = Decoder(model.model.language_model, model.lm_head)
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
        return self._pad or 0

    @property
    def _pad(self) -> int | None:
        chosen = self.model.generation_config.pad_token_id
        return self.text_config.pad_token_id if chosen is None else chosen

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [] if ends is None else [ends]

    def layers(self, need: Need) -> tuple[int, ...]:
        """The tower's layers that a need names, non-negative.

        Raises:
            UnsupportedNeed: The need asks for [CLS] and the tower has none.
            LayerError: A layer is out of range.
        """
        if isinstance(need, ClsRows | ClsQuery) and not self.tower.has_cls:
            name = type(self.inner.vision_tower).__name__
            raise UnsupportedNeed(
                f"{name} cannot answer {need}: it has no [CLS] token whose attention could be read; the stand-in for "
                "such towers is the scorer ReceivedAttention(layer=-2)"
            )
        match need:
            case ClsRows(layers):
                return resolve_layers(layers, self.tower.depth, self.tower.feature_layer)
            case ClsQuery(layer) | Keys(layer) | ReceivedRows(layer):
                return (resolve_layer(layer, self.tower.depth),)
            case _:
                return ()

    def check(self, needs: Sequence[Need], stages: Sequence[Cut] = ()) -> None:
        """Raises what running these needs and stages would raise about layers, without a picture."""
        for need in needs:
            self.layers(need)
        check_stages(stages, self.decoder.depth)

    def encode(
        self, pixels: Float[Tensor, "image channel height width"], needs: Sequence[Need]
    ) -> tuple[Float[Tensor, "image source dim"], dict[Need, Tensor]]:
        """Sources before the projector (patches, then [CLS] if there is one), and what the tower can answer of `needs`.

        Raises:
            UnsupportedNeed: The tower has no [CLS].
            LayerError: A layer is out of range.
        """
        wanted = {need: self.layers(need) for need in needs}
        recorded: dict[tuple[type[Need], int], Tensor] = {}

        def listen(layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
            query, key = query.detach(), key.detach()
            for need, layers in wanted.items():
                if layer not in layers or (type(need), layer) in recorded:
                    continue
                recorded[type(need), layer] = self._heard(need, query, key, scaling)

        with tapped(self.inner.vision_tower, self._attention, listen) if any(wanted.values()) else nullcontext():
            sources = self._cls_last(self._states(pixels))
        values: dict[Need, Tensor] = {}
        for need, layers in wanted.items():
            match need:
                case ClsRows():
                    values[need] = torch.stack([recorded[ClsRows, layer] for layer in layers], 1)
                case ReceivedRows() | ClsQuery() | Keys():
                    values[need] = recorded[type(need), layers[0]]
                case Fingerprint():
                    values[need] = fingerprints(pixels)
                case Features():
                    patches = sources[:, : self.tower.grid.patches]
                    values[need] = self.project(patches) if need.projected else patches
                case Downsampled():
                    values[need] = self._downsampled(pixels, need)
                case _:
                    pass  # not the tower's to answer
        return sources, values

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        """The projector, token by token."""
        return self.inner.multi_modal_projector(features)

    def reduced(
        self, pixels: Float[Tensor, "image channel height width"], reduction: Reduction, keep: int
    ) -> tuple[Float[Tensor, "image token dim"], Compression]:
        """Features before the projector when `reduction` drops or merges tokens between the tower's blocks."""
        tower = self.tower
        pixels = pixels.to(self.model.dtype)
        return reduced(self.inner.vision_tower, pixels, reduction, keep, tower.feature_layer, tower.has_cls)

    def embed(self, ids: Tensor, tokens: Float[Tensor, "visual dim"]) -> Float[Tensor, "batch token dim"]:
        """Input embeddings in which the image tokens, in reading order, are the given ones."""
        words = self.inner.get_input_embeddings()(ids)
        return words.masked_scatter((ids == self.image_token)[..., None], tokens.to(words.dtype))

    def mask(self, ids: Tensor) -> Tensor:
        """What `generate` assumes without a mask: padding is not read, unless it is also what ends an answer."""
        pad = self._pad
        return torch.ones_like(ids) if pad is None or pad in self.ends else ids.ne(pad).long()

    def question(self, prompt: Sequence[int], tail: Sequence[int] = ()) -> list[int]:
        """The text behind the last image of a prompt, without special tokens.

        Args:
            prompt: Token ids with all placeholders.
            tail: What the chat template puts behind every question.
        """
        special = {self.image_token, self.pad_token, self.text_config.bos_token_id, *self.ends}
        start = max((i for i, token in enumerate(prompt) if token == self.image_token), default=-1) + 1
        words = list(prompt[start:])
        if tail and words[-len(tail) :] == list(tail):
            words = words[: -len(tail)]
        return [token for token in words if token not in special]

    def _heard(self, need: Need, query: Tensor, key: Tensor, scaling: float) -> Tensor:
        """What one attention call of the tower answers."""
        match need:
            case ClsRows():
                return attention_rows(query[:, :, :1], key, scaling)[:, :, 0, 1:]
            case ReceivedRows():
                rows = torch.ones(len(query), query.shape[2], device=query.device)
                return mean_attention(query, key, scaling, rows)[:, :, 1 if self.tower.has_cls else 0 :]
            case ClsQuery():
                return query[:, :, 0]
            case _:
                return self._cls_last(key.transpose(1, 2))

    def _cls_last(self, states: Tensor) -> Tensor:
        return torch.cat([states[:, 1:], states[:, :1]], 1) if self.tower.has_cls else states

    def _states(self, pixels: Tensor, **options: bool) -> Tensor:
        """What `get_image_features` hands to the projector, with [CLS]."""
        chosen = self.model.config.vision_feature_layer
        output = self.inner.vision_tower(pixels.to(self.model.dtype), output_hidden_states=True, **options)
        return torch.cat([output.hidden_states[i] for i in ([chosen] if isinstance(chosen, int) else chosen)], -1)

    def _downsampled(self, pixels: Tensor, need: Downsampled) -> Tensor:
        config: Any = self.model.config
        side = config.vision_config.patch_size
        size = (need.rows * side, need.columns * side)
        small = F.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
        return self._states(small, interpolate_pos_encoding=True)[:, 1 if self.tower.has_cls else 0 :]


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
    return Tower(depth, config.vision_config.num_attention_heads, last % (depth + 1) - 1, has_cls, Grid(side, side))
