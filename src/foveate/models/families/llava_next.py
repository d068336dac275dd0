"""The adapter of LLaVA-NeXT, and the base of families with images of any resolution."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.budget import Keep, resolve_keep
from foveate.core.transfer import on_device, rows_of
from foveate.models.backbone.adapter import ImageInputs
from foveate.models.backbone.internals import internal
from foveate.models.backbone.scaling import Scaling, nearest
from foveate.models.families.llava import clip_like, grid_of
from foveate.models.families.tiled import Tiled

_SEPARATOR = -1.0  # marks the separators that the model's packing code inserts


class AnyResolution(Tiled):
    """A family whose tokens are those of the whole image, then of its enlargement with a separator after each row.

    The enlargement consists of tiles, whose padding has no tokens. A smaller image has the fewest tiles that leave at
    least as many patches as wanted, none besides the whole image if possible, and then smaller ones.

    Attributes:
        splits_several: Whether images are split into tiles that are not alone in their prompt.
    """

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")
    splits_several: ClassVar[bool] = True

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model, model.model.language_model)
        self.tiles = clip_like(model)
        self.tower = self.tiles.properties
        self.separator = self.inner.image_newline
        self._known: dict[tuple[tuple[int, int], int], Arrangement] = {}
        self._configs: dict[int, Any] = {}

    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        pixels, sizes = images.get("pixel_values"), images["image_sizes"].tolist()
        if pixels is not None and pixels.ndim != 5:
            raise ValueError(
                f"pixel_values of shape {tuple(pixels.shape)}: expected (image, tile, channel, height, width), as the "
                "model's own processor gives them"
            )
        base = self._base(images)
        if pixels is not None and pixels.shape[1] == 1:
            return [_whole(base)] * len(sizes)
        tiled = [self._arranged((int(height), int(width)), base.rows) for height, width in sizes]
        return [own if split else _whole(base) for own, split in zip(tiled, self._split(images), strict=True)]

    def chosen(self, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> ImageInputs:
        return {name: rows_of(images[name], rows) for name in ("pixel_values", "image_sizes")}

    def pixels(self, images: ImageInputs, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        base = self._base(images)
        whole = arrangement == _whole(base)
        return images["pixel_values"][:, : 1 if whole else self.count(images["image_sizes"][0], base.rows)]

    def scaling(self, size: tuple[int, int], keep: Keep, alone: bool = True) -> Scaling:
        base = self.tower.grid
        split = alone or self.splits_several
        own = self._patches(size, base.rows) if split else base.patches
        if (patches := resolve_keep(keep, own)) == own:
            return Scaling(own)
        tiled = self._sizes_with_fewer_tiles(size) if split else {}
        fewest = min(count for count in (*tiled, base.patches) if count >= patches)
        found: list[Scaling] = []
        for rows in range(base.rows, 0, -1):
            found.append(self._with_side(rows, tiled.get(fewest)))
            if found[-1].patches <= patches:
                break
        return nearest(found, patches)

    def scaled(self, images: ImageInputs, scaling: Scaling) -> ImageInputs:
        return {**images, "pixel_values": images["pixel_values"][:, :1]} if scaling.whole else images

    def packed(
        self, tiles: Float[Tensor, "image tile token width"], images: ImageInputs, arrangement: Arrangement
    ) -> Float[Tensor, "image patch width"]:
        sizes = images["image_sizes"]  # images of one arrangement may have different padding
        offsets = on_device(arrangement.offsets, tiles.device)
        newline = torch.full(tiles.shape[-1:], _SEPARATOR, dtype=tiles.dtype, device=tiles.device)
        return torch.stack([self.pack(tile, size, newline)[offsets] for tile, size in zip(tiles, sizes, strict=True)])

    def count(self, size: Tensor, rows: int) -> int:
        """Returns the number of tiles, of so many rows of patches, of an image of this height and width."""
        config = self._config(rows)
        image_size_to_num_patches = internal("models.llava_next.modeling_llava_next.image_size_to_num_patches")
        return image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)

    def packer(self, tiles: Float[Tensor, "tile patch width"]) -> Any:  # noqa: ANN401 (the stock model)
        """Returns the stock model, or for tiles of another size its packing code with a configuration of that size."""
        rows = math.isqrt(tiles.shape[1])
        if rows == self.tower.grid.rows:
            return self.inner
        other = SimpleNamespace(config=self._config(rows))
        other.pack_image_features = partial(type(self.inner).pack_image_features, other)
        return other

    def _base(self, images: ImageInputs) -> Grid:
        """Returns the grid of patches of each tile of these images."""
        pixels = images.get("pixel_values")
        return self.tower.grid if pixels is None else grid_of(pixels, self.model.config)

    def _config(self, rows: int) -> Any:  # noqa: ANN401 (a class per family)
        """Returns the configuration for tiles with so many rows of patches."""
        own: Any = self.model.config
        if rows == self.tower.grid.rows:
            return own
        if rows not in self._configs:
            changed = deepcopy(own)
            changed.vision_config.image_size = rows * own.vision_config.patch_size
            changed.image_grid_pinpoints = self._points(rows)
            self._configs[rows] = changed
        return self._configs[rows]

    def _points(self, rows: int) -> list[list[int]]:
        """Returns the heights and widths in pixels that an image is enlarged to, for tiles of so many rows."""
        config: Any = self.model.config
        whole = self.tower.grid.rows
        return [[side * rows // whole for side in point] for point in config.image_grid_pinpoints]

    def _sizes_with_fewer_tiles(self, size: tuple[int, int]) -> dict[int, tuple[int, int]]:
        """Returns the size of an image and smaller ones, which have fewer tiles, by their number of patches."""
        rows, found = self.tower.grid.rows, {self._patches(size, self.tower.grid.rows): size}
        own = max(found)
        for height, width in self._points(rows):
            factor = min(height / size[0], width / size[1])
            smaller = _times(size, min(factor, 1.0))
            if (patches := self._patches(smaller, rows)) < own:
                found.setdefault(patches, smaller)
        return found

    def _patches(self, size: tuple[int, int], rows: int) -> int:
        """Returns the number of patches of an image of this height and width, with tiles of so many rows."""
        height_width = torch.tensor(size)
        nothing = torch.zeros(self.count(height_width, rows), rows**2, 1)
        return int((self.pack(nothing, height_width, torch.tensor([_SEPARATOR])) >= 0).sum())

    def _with_side(self, rows: int, size: tuple[int, int] | None) -> Scaling:
        """Returns the scaling to tiles with so many rows of patches, without a size to the whole image alone."""
        config: Any = self.model.config
        own, side = self.tower.grid.rows, rows * config.vision_config.patch_size
        square = {"height": side, "width": side}
        crop = {"crop_size": square} if getattr(self.image_processor, "crop_size", None) else {}
        options = {"size": square, "image_grid_pinpoints": self._points(rows), **crop} if rows != own else {}
        if size is None:
            return Scaling(rows**2, options, whole=True)
        smaller = _times(size, rows / own)
        return Scaling(self._patches(smaller, rows), options, smaller)

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

    def _arranged(self, size: tuple[int, int], rows: int) -> Arrangement:
        if (size, rows) not in self._known:
            height_width, grid = torch.tensor(size), Grid(rows, rows)
            count = self.count(height_width, rows)
            # Each patch carries its tile as a one-hot vector; where packing shrinks the enlargement, tiles mix.
            mark = torch.eye(count)[:, None].expand(-1, grid.patches, -1)
            packed = self.pack(mark, height_width, torch.full((count,), _SEPARATOR))
            self._known[size, rows] = _read(packed, grid)
        return self._known[size, rows]


def _times(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _whole(base: Grid) -> Arrangement:
    """Returns the arrangement of an image that is not split into tiles: its patches, then one separator."""
    return Arrangement((base,), (), separators=(base.patches,))  # no box: the square includes padding


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
        return self.packer(tiles).pack_image_features([tiles], size[None], strategy, newline)[0][0]
