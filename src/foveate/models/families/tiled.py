"""The base of families that split an image into tiles, each an input of the tower, and pack the patches of all."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import ClsQuery, Downsampled, Features, FrameVectors, Keys, Need
from foveate.models.backbone.adapter import Adapter, ImageInputs, downsampled_too_late
from foveate.models.backbone.tile_tower import TileTower
from foveate.models.families.llava import grid_of


class Tiled(Adapter):
    """An adapter whose tower answers needs tile by tile; the model's own code packs the answers."""

    tiles: TileTower
    no_single_answer: ClassVar[str] = "cuts an image into tiles, so there is no single answer for an image"

    @property
    def keeps_cls(self) -> bool:
        return False  # every tile has its own

    def joined(self, features: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token joined"]:
        """Returns the features of each token: those of its patches, joined if it has several."""
        return features

    def pooled(self, values: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token width"]:
        """Returns values of patches, averaged over the patches of each token."""
        return values

    def packed(
        self, tiles: Float[Tensor, "image tile token width"], images: ImageInputs, arrangement: Arrangement
    ) -> Float[Tensor, "image patch width"]:
        """Returns the tokens of all tiles in the order of the placeholders, without separators."""
        return tiles.flatten(1, 2)

    def per_token(
        self, values: Float[Tensor, "image tile patch width"], images: ImageInputs, arrangement: Arrangement
    ) -> Float[Tensor, "image token width"]:
        pooled = self.pooled(values.flatten(0, 1))
        return self.packed(pooled.unflatten(0, (len(values), -1)), images, arrangement)

    def vision_grids(self, images: ImageInputs, arrangement: Arrangement) -> tuple[Grid, ...]:
        pixels = self.pixels(images, arrangement)
        return (grid_of(pixels, self.model.config),) * pixels.shape[1]

    def encode(
        self, images: ImageInputs, arrangement: Arrangement, needs: Sequence[Need]
    ) -> tuple[Float[Tensor, "image source dim"], dict[Need, Tensor]]:
        for need in needs:
            if isinstance(need, Downsampled):
                raise UnsupportedNeed(downsampled_too_late(need))
            if isinstance(need, ClsQuery):
                raise UnsupportedNeed(
                    f"{need}: {type(self.model).__name__} {self.no_single_answer}; use a method that does not need it"
                )
        pixels = self.pixels(images, arrangement)
        sources, answers = self.tiles.encode(pixels.flatten(0, 1), {need: self.layers(need) for need in needs})
        patches = sources.shape[1] - self.tower.has_cls

        def pack(tiles: Tensor) -> Tensor:
            return self.packed(tiles.unflatten(0, (len(pixels), -1)), images, arrangement)

        def pack_values(tiles: Tensor) -> Tensor:
            """Packs (tile, patch, ...) into (image, patch, ...)."""
            values = tiles.flatten(2).unflatten(0, (len(pixels), -1))
            return self.per_token(values, images, arrangement).unflatten(-1, tiles.shape[2:])

        features = self.joined(sources[:, :patches])
        tokens = pack(super().project(features) if self.packs_projected else features)
        values = self.pixel_statistics(images, arrangement, needs)
        for need in needs:
            match need:
                case Keys():
                    values[need] = pack_values(answers[need][:, :patches].float())
                case FrameVectors() if need in answers:  # the first tile of an image shows all of it
                    frames = answers[need][:, 0].unflatten(0, (len(pixels), -1))
                    values[need] = frames[:, : arrangement.frames or 1]
                case Features(projected=True):
                    values[need] = self.project(tokens)
                case Features():
                    values[need] = pack(features) if self.packs_projected else tokens
                case _ if need in answers:
                    values[need] = pack_values(answers[need].movedim(-1, 1)).movedim(1, -1)
        return tokens, values

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return features if self.packs_projected else super().project(features)


def arranged(grid: Grid, tiles: int, boxes: tuple[tuple[float, float, float, float], ...] = ()) -> Arrangement:
    """Returns the arrangement of an image whose tokens are those of its tiles, tile by tile.

    Args:
        grid: Grid of tokens of each tile.
        tiles: Number of tiles, the whole image included.
        boxes: The part of the image that each of several tiles shows; empty if it is not known.
    """
    if tiles == 1:
        return Arrangement((grid,))
    number = tuple(tile for tile in range(tiles) for _ in range(grid.patches))
    return Arrangement((grid,) * tiles, boxes, tiles=number)


def concatenated(output: BaseModelOutputWithPooling) -> BaseModelOutputWithPooling:
    """Returns the features of images one after the other, as one tensor, if they are listed image by image."""
    features: Any = output.pooler_output
    if isinstance(features, Tensor):
        return output
    return BaseModelOutputWithPooling(pooler_output=torch.cat(features)[None])
