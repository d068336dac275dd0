"""The adapter of InternVL."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.budget import Keep, resolve_keep
from foveate.core.errors import UnsupportedModel
from foveate.models.backbone.adapter import ImageInputs, Tower
from foveate.models.backbone.pixels import pair
from foveate.models.backbone.scaling import Scaling, nearest
from foveate.models.backbone.tile_tower import TileTower, feature_layer_of, selected_states
from foveate.models.families.llava import grid_of, tile_grid
from foveate.models.families.tiled import Tiled, arranged, concatenated


class InternVL(Tiled):
    """InternVL, whose tokens are squares of patches (pixel shuffle), tile by tile with the whole image last."""

    image_options: ClassVar[Mapping[str, Any]] = {"crop_to_patches": True}
    image_boundary_tokens: ClassVar[tuple[str, ...]] = ("start_image_token_id", "end_image_token_id")

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model, model.model.language_model)
        tower, config = self.inner.vision_tower, model.config
        layers, chosen = tower.encoder.layer, config.vision_feature_layer
        if config.vision_feature_select_strategy != "default":
            raise UnsupportedModel(
                f"InternVL with vision_feature_select_strategy={config.vision_feature_select_strategy!r}: expected "
                "'default', which leaves [CLS] out of the visual tokens"
            )

        def states(pixels: Tensor, last: int) -> Tensor:
            output = tower(pixels.to(model.dtype), output_hidden_states=chosen != -1)
            if chosen == -1:
                return output.last_hidden_state
            return selected_states(output.hidden_states, chosen, len(layers))

        patches, heads = tile_grid(config), config.vision_config.num_attention_heads
        grid = Grid(int(patches.rows * config.downsample_ratio), int(patches.columns * config.downsample_ratio))
        self.tower = Tower(len(layers), heads, feature_layer_of(chosen, len(layers)), True, grid)
        self.tiles = TileTower(tower, [layer.attention for layer in layers], self.tower, states)

    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        grid, count = self._grid(images), len(images["pixel_values"])
        if any(run % grid.patches for run in runs) or sum(runs) != count * grid.patches:
            raise ValueError(
                f"runs of {list(runs)} image tokens for {count} tiles: expected {grid.patches} tokens per tile; build "
                "the inputs with the model's own processor"
            )
        return [arranged(grid, run // grid.patches) for run in runs]

    def scaling(self, size: tuple[int, int], keep: Keep, alone: bool = True) -> Scaling:
        processor, rows = self.image_processor, self.tower.grid.rows
        patch = tile_grid(self.model.config).rows // rows * pair(self.model.config.vision_config.patch_size)[0]

        def with_tiles(most: int, rows: int) -> Scaling:
            square = {"height": rows * patch, "width": rows * patch}
            options = {**self.image_options, "max_patches": most, "patch_size": square}
            count = processor.get_number_of_image_patches(*size, options)
            return Scaling(count * rows**2, {"max_patches": most, "size": square})

        own = with_tiles(processor.max_patches, rows).patches
        if (patches := resolve_keep(keep, own)) == own:
            return Scaling(own)
        most = next(most for most in range(1, processor.max_patches + 1) if with_tiles(most, rows).patches >= patches)
        return nearest((with_tiles(most, side) for side in range(1, rows + 1)), patches)

    def arrangements_of(self, images: ImageInputs, prepared: Mapping[str, Any]) -> list[Arrangement]:
        grid = self._grid(images)
        return [arranged(grid, int(count)) for count in prepared["num_patches"]]

    def chosen(self, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> ImageInputs:
        tiles = images["pixel_values"].split([len(arrangement.views) for arrangement in arrangements])
        return {"pixel_values": torch.cat([tiles[row] for row in rows])}

    def pixels(self, images: ImageInputs, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        return images["pixel_values"].unflatten(0, (-1, len(arrangement.views)))

    def joined(self, features: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token joined"]:
        rows = math.isqrt(features.shape[1])
        image = features.unflatten(1, (rows, rows)).contiguous()  # pixel_shuffle takes views of it
        return self.inner.pixel_shuffle(image, scale_factor=self.model.config.downsample_ratio).flatten(1, 2)

    def pooled(self, values: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token width"]:
        return self.joined(values).unflatten(-1, (-1, values.shape[-1])).mean(-2)

    def joined_output(self, output: BaseModelOutputWithPooling) -> BaseModelOutputWithPooling:
        return concatenated(output)

    def _grid(self, images: ImageInputs) -> Grid:
        """Returns the grid of tokens of each tile of these images."""
        patches, ratio = grid_of(images["pixel_values"], self.model.config), self.model.config.downsample_ratio
        return Grid(int(patches.rows * ratio), int(patches.columns * ratio))
