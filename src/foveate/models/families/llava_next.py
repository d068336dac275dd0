"""The adapters of LLaVA-NeXT and LLaVA-NeXT-Video, and their base for images of any resolution."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.arrangement import Arrangement, Grid
from foveate.models.backbone.adapter import ImageInputs
from foveate.models.backbone.internals import internal
from foveate.models.families.llava import clip_like, tile_grid
from foveate.models.families.tiled import Tiled

_SEPARATOR = -1.0  # marks the separators that the model's packing code inserts


class AnyResolution(Tiled):
    """A family whose tokens are those of the whole image, then of its enlargement with a separator after each row.

    The enlargement consists of tiles, whose padding has no tokens.
    """

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model, model.model.language_model)
        self.tiles = clip_like(model)
        self.tower = self.tiles.properties
        self.separator = self.inner.image_newline
        self._known: dict[tuple[int, int], Arrangement] = {}

    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        pixels, sizes = images.get("pixel_values"), images["image_sizes"].tolist()
        if pixels is not None and pixels.ndim != 5:
            raise ValueError(
                f"pixel_values of shape {tuple(pixels.shape)}: expected (image, tile, channel, height, width), as the "
                "model's own processor gives them"
            )
        tiled = [self._arranged((int(height), int(width))) for height, width in sizes]
        return [own if split else self._whole for own, split in zip(tiled, self._split(images), strict=True)]

    def chosen(self, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> ImageInputs:
        return {name: images[name][list(rows)] for name in ("pixel_values", "image_sizes")}

    def pixels(self, images: ImageInputs, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        whole = arrangement == self._whole
        return images["pixel_values"][:, : 1 if whole else self.count(images["image_sizes"][0])]

    def packed(
        self, tiles: Float[Tensor, "image tile token width"], images: ImageInputs, arrangement: Arrangement
    ) -> Float[Tensor, "image patch width"]:
        sizes = images["image_sizes"]  # images of one arrangement may have different padding
        offsets = arrangement.offsets.to(tiles.device)
        newline = torch.full(tiles.shape[-1:], _SEPARATOR, dtype=tiles.dtype, device=tiles.device)
        return torch.stack([self.pack(tile, size, newline)[offsets] for tile, size in zip(tiles, sizes, strict=True)])

    def count(self, size: Tensor) -> int:
        """Returns the number of tiles of an image of this height and width."""
        config: Any = self.model.config
        image_size_to_num_patches = internal("models.llava_next.modeling_llava_next.image_size_to_num_patches")
        return image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)

    @cached_property
    def _whole(self) -> Arrangement:
        """The arrangement of an image that is not split into tiles: its patches, then one separator."""
        base = tile_grid(self.model.config)
        return Arrangement((base,), (), separators=(base.patches,))  # no box: the square includes padding

    def _split(self, images: ImageInputs) -> list[bool]:
        """Returns for each image whether it is split into tiles."""
        return [True] * len(images["image_sizes"])

    @abstractmethod
    def pack(self, tiles: Float[Tensor, "tile patch width"], size: Tensor, newline: Tensor) -> Tensor:
        """Packs the patches of one image by the model's own code.

        Args:
            tiles: Values of the patches of each tile.
            size: Height and width of the image in pixels.
            newline: The separator that is inserted after each row.
        """

    def _arranged(self, size: tuple[int, int]) -> Arrangement:
        if size not in self._known:
            height_width, grid = torch.tensor(size), tile_grid(self.model.config)
            count = self.count(height_width)
            # Each patch carries its tile as a one-hot vector; where packing shrinks the enlargement, tiles mix.
            mark = torch.eye(count)[:, None].expand(-1, grid.patches, -1)
            self._known[size] = _read(self.pack(mark, height_width, torch.full((count,), _SEPARATOR)), grid)
        return self._known[size]


def _read(run: Float[Tensor, "token tile"], base: Grid) -> Arrangement:
    """Returns the arrangement of a packed image, from each token's share of every tile, -1 for separators."""
    separators = tuple((run[:, 0] < 0).nonzero()[:, 0].tolist())
    tiles = tuple(run[run[:, 0] >= 0].argmax(1).tolist())
    if len(tiles) == base.patches:
        return Arrangement((base,), separators=separators)
    rows = len(separators)
    enlarged = Grid(rows, (len(tiles) - base.patches) // rows)
    return Arrangement((base, enlarged), Arrangement.boxes * 2, separators, tiles)


class LlavaNext(AnyResolution):
    """LLaVA-NeXT, also called LLaVA-1.6."""

    def pack(self, tiles: Float[Tensor, "tile patch width"], size: Tensor, newline: Tensor) -> Tensor:
        strategy = self.model.config.vision_feature_select_strategy
        return self.inner.pack_image_features([tiles], size[None], strategy, newline)[0][0]


class LlavaNextVideo(Tiled):
    """LLaVA-NeXT-Video for videos, frame by frame with the patches of a frame pooled."""

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
    modality = "video"

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model, model.model.language_model)
        self.tiles = clip_like(model)
        patches, stride = self.tiles.properties.grid, model.config.spatial_pool_stride
        self.tower = replace(self.tiles.properties, grid=Grid(patches.rows // stride, patches.columns // stride))

    @property
    def image_token(self) -> int:
        return self.model.config.video_token_id

    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        videos, frames = images["pixel_values_videos"].shape[:2]
        number = tuple(frame for frame in range(frames) for _ in range(self.tower.grid.patches))
        return [Arrangement((self.tower.grid,) * frames, Arrangement.boxes * frames, tiles=number)] * videos

    def chosen(self, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> ImageInputs:
        return {"pixel_values_videos": images["pixel_values_videos"][list(rows)]}

    def pixels(self, images: ImageInputs, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        return images["pixel_values_videos"]

    def joined(self, features: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token joined"]:
        return self.inner.vision_resampler(features)

    def pooled(self, values: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token width"]:
        return self.inner.vision_resampler(values)
