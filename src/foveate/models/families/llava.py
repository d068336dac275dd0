"""The adapter of LLaVA-1.5: a CLIP-like tower, a projector, a causal language model."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.budget import Keep, resolve_keep
from foveate.core.compression import Compression
from foveate.core.contracts import Reduction
from foveate.core.errors import UnsupportedModel, UnsupportedNeed
from foveate.core.needs import Downsampled, Features, Need
from foveate.core.transfer import rows_of
from foveate.functional.geometry import nearest_grid
from foveate.functional.pooling_head import pooled_by_head
from foveate.models.backbone.adapter import Adapter, ImageInputs, Tower
from foveate.models.backbone.pixels import pair
from foveate.models.backbone.scaling import Scaling
from foveate.models.backbone.tile_tower import TileTower, feature_layer_of, selected_states
from foveate.models.backbone.token_reduction import patch_embeddings, reduced


class Llava(Adapter):
    """LLaVA-1.5, in which every image is one input of the tower."""

    fixed_grid: ClassVar[bool] = True
    resizes_pixels: ClassVar[bool] = True

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__(model, model.model.language_model)
        self.tiles = clip_like(model)
        self.tower = self.tiles.properties

    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        pixels = images["pixel_values"]
        grid = grid_of(pixels, self.model.config)
        return [Arrangement((grid,))] * len(pixels)

    def chosen(self, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> ImageInputs:
        return {"pixel_values": rows_of(images["pixel_values"], rows)}

    def vision_grids(self, images: ImageInputs, arrangement: Arrangement) -> tuple[Grid, ...]:
        return arrangement.views

    def pixels(self, images: ImageInputs, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        return images["pixel_values"][:, None]

    def per_token(
        self, values: Float[Tensor, "image tile patch width"], images: ImageInputs, arrangement: Arrangement
    ) -> Float[Tensor, "image token width"]:
        return values[:, 0]

    def encode(
        self, images: ImageInputs, arrangement: Arrangement, needs: Sequence[Need]
    ) -> tuple[Float[Tensor, "image source dim"], dict[Need, Tensor]]:
        pixels = images["pixel_values"]
        sources, values = self.tiles.encode(pixels, {need: self.layers(need) for need in needs})
        values |= self.pixel_statistics(images, arrangement, needs)
        for need in needs:
            match need:
                case Features():
                    patches = sources[:, : arrangement.patches]
                    values[need] = self.project(patches) if need.projected else patches
                case Downsampled():
                    values[need] = self._downsampled(pixels, need)
                case _:
                    pass  # answered by the tower above, or by the caller
        return sources, values

    def reduced(
        self, images: ImageInputs, reduction: Reduction, keep: int
    ) -> tuple[Float[Tensor, "image token dim"], Compression]:
        tower, config = self.tower, self.model.config
        if not isinstance(config.vision_feature_layer, int) and len(config.vision_feature_layer) > 1:
            raise UnsupportedNeed(
                f"{reduction} leaves different patches in every layer, but this model's features come from several "
                f"layers (vision_feature_layer={config.vision_feature_layer}): use a method that compresses after the "
                "tower"
            )
        pixels = images["pixel_values"].to(self.model.dtype)
        return reduced(self.inner.vision_tower, pixels, reduction, keep, tower.feature_layer, tower.has_cls)

    def scaling(self, size: tuple[int, int], keep: Keep, alone: bool = True) -> Scaling:
        own = self.tower.grid
        if (patches := resolve_keep(keep, own.patches)) == own.patches:
            return Scaling(patches)
        grid = Grid(*nearest_grid(patches, own.rows, own.columns))
        return Scaling(grid.patches, grid=grid)

    def scaled(self, images: ImageInputs, scaling: Scaling) -> ImageInputs:
        if scaling.grid is None:
            return images
        return {**images, "pixel_values": self._resized(images["pixel_values"], scaling.grid)}

    def _resized(self, pixels: Tensor, grid: Grid) -> Tensor:
        """Returns the pixels at the size of a smaller grid."""
        config: Any = self.model.config
        rows, columns = pair(config.vision_config.patch_size)
        size = (grid.rows * rows, grid.columns * columns)
        return F.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)

    def _downsampled(self, pixels: Tensor, need: Downsampled) -> Tensor:
        states = self.tiles.states(self._resized(pixels, Grid(need.rows, need.columns)), self.tower.feature_layer)
        return states[:, int(self.tower.has_cls) :]


def clip_like(model: Any) -> TileTower:  # noqa: ANN401 (LLaVA and its descendants)
    """Returns the tower of a LLaVA.

    Raises:
        UnsupportedModel: The tower is neither CLIP's nor SigLIP's, or its features are selected in an unsupported way.
    """
    config, tower = model.config, model.model.vision_tower
    transformer: Any = getattr(tower, "vision_model", tower)
    if not hasattr(transformer, "encoder") or not hasattr(transformer, "embeddings"):
        raise UnsupportedModel(f"vision tower {type(transformer).__name__} is not supported: expected CLIP or SigLIP")
    layers, chosen = transformer.encoder.layers, config.vision_feature_layer
    has_cls = hasattr(transformer.embeddings, "class_embedding")
    if has_cls != (config.vision_feature_select_strategy == "default"):
        raise UnsupportedModel(
            f"vision_feature_select_strategy={config.vision_feature_select_strategy!r} with a "
            f"{type(transformer).__name__}: expected 'default' for towers with [CLS] and 'full' for towers without"
        )
    heads = config.vision_config.num_attention_heads

    def states(pixels: Tensor, last: int) -> Tensor:
        first = patch_embeddings(transformer, pixels.to(model.dtype))
        states = accumulate(layers[: last + 1], lambda states, block: block(states, None), initial=first)
        return selected_states(states, chosen, len(layers))

    head = _pooling_head(transformer) if isinstance(chosen, int) else None
    last = feature_layer_of(chosen, len(layers))
    properties = Tower(len(layers), heads, last, has_cls, tile_grid(config), pools=head is not None)
    return TileTower(tower, [layer.self_attn for layer in layers], properties, states, head)


def _pooling_head(transformer: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:  # noqa: ANN401 (a class per family)
    """Returns the pooling head of a SigLIP tower as a function of its features; None without a head."""
    head: Any = getattr(transformer, "head", None)
    if head is None:
        return None

    def pooled(features: Float[Tensor, "image patch dim"]) -> tuple[Tensor, Tensor]:
        normed = transformer.post_layernorm(features)
        with torch.no_grad():  # for choices, which have no gradient
            return pooled_by_head(normed, head.probe, head.attention, head.layernorm, head.mlp)

    return pooled


def tile_grid(config: Any) -> Grid:  # noqa: ANN401
    """Returns the grid of patches of one input of the tower."""
    sizes, sides = pair(config.vision_config.image_size), pair(config.vision_config.patch_size)
    return Grid(sizes[0] // sides[0], sizes[1] // sides[1])


def grid_of(pixels: Float[Tensor, "*image channel height width"], config: Any) -> Grid:  # noqa: ANN401
    """Returns the grid of patches of inputs of the tower of any size."""
    sides = pair(config.vision_config.patch_size)
    return Grid(pixels.shape[-2] // sides[0], pixels.shape[-1] // sides[1])
