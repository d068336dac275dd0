"""The adapter of Idefics3 and SmolVLM: tiles with markers between them, the whole image last."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.budget import Keep, resolve_keep
from foveate.core.errors import UnsupportedNeed
from foveate.core.transfer import on_device
from foveate.functional.sequence import runs_of
from foveate.models.backbone.adapter import ImageInputs, Tower
from foveate.models.backbone.internals import internal
from foveate.models.backbone.scaling import Scaling, nearest
from foveate.models.backbone.tile_tower import TileTower
from foveate.models.families.llava import grid_of, tile_grid
from foveate.models.families.tiled import Tiled, arranged

_KINDS = "tile_kinds"  # (prompt, tile): one of the following numbers
_PADDING, _WHOLE, _MASKED = range(3)


class Idefics3(Tiled):
    """Idefics3 or SmolVLM, whose tokens are squares of patches (pixel shuffle).

    The inputs hold the tiles of a prompt in one row, padded with empty tiles. In the prompt every tile has a run of
    placeholders of its own, after a token that all tiles share and one that names its row and column. The tower looks
    up the positions of tiles of any size by themselves, so the stock model takes smaller ones.
    """

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_attention_mask", _KINDS)
    row_per_prompt: ClassVar[bool] = True
    image_options: ClassVar[Mapping[str, Any]] = {"return_row_col_info": True}

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model, model.model.text_model)
        tower, config = self.inner.vision_model, model.config
        layers, heads = tower.encoder.layers, config.vision_config.num_attention_heads

        def states(pixels: Tensor, last: int) -> Tensor:
            return tower(pixel_values=pixels.to(model.dtype)).last_hidden_state

        grid = self._tokens(tile_grid(config))
        self.tower = Tower(len(layers), heads, len(layers) - 1, False, grid)
        self.tiles = TileTower(tower, [layer.self_attn for layer in layers], self.tower, states)

    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        grid = self._grid(images)
        self._check(images, [run / grid.patches for run in runs])
        return [_arranged(grid, run // grid.patches) for run in runs]

    def scaling(self, size: tuple[int, int], keep: Keep, alone: bool = True) -> Scaling:
        processor: Any = self.image_processor
        longest, tile = processor.size["longest_edge"], processor.max_image_size["longest_edge"]
        token = self.model.config.vision_config.patch_size * self.model.config.scale_factor  # side in pixels
        own = (_tiles(size, longest, tile) if processor.do_image_splitting else 1) * (tile // token) ** 2
        if (patches := resolve_keep(keep, own)) == own:
            return Scaling(own)

        def with_tiles(edge: int, rows: int) -> Scaling:
            """Returns the scaling to so many tiles along the longest edge, with so many rows of tokens each."""
            side = rows * token
            options: dict[str, Any] = {"do_image_splitting": edge > 1, "max_image_size": {"longest_edge": side}}
            if edge == 1:
                return Scaling(rows**2, options)
            return Scaling(
                _tiles(size, edge * side, side) * rows**2, {**options, "size": {"longest_edge": edge * side}}
            )

        edges = range(1, math.ceil(longest / tile) + 1 if processor.do_image_splitting else 2)
        whole = [with_tiles(edge, tile // token) for edge in edges]
        enough = next((edge for edge, one in zip(edges, whole, strict=True) if one.patches >= patches), edges[-1])
        smaller = [with_tiles(enough, rows) for rows in range(1, tile // token)]
        return nearest((one for one in [*whole, *smaller] if one.patches <= own), patches)

    def arrangements_in(self, images: ImageInputs, ids: Int[Tensor, "batch token"]) -> list[Arrangement]:
        grid = self._grid(images)
        per_image = _rows_of_tiles(ids, self.image_token, grid.patches)
        self._check(images, [tile for rows in per_image for tile in rows])
        return [_arranged(grid, *_split(rows)) for rows in per_image]

    def arrangements_of(self, images: ImageInputs, prepared: Mapping[str, Any]) -> list[Arrangement]:
        rows, columns = ([n for prompt in prepared[name] for n in prompt] for name in ("rows", "cols"))
        grid = self._grid(images)
        return [_arranged(grid, r * c + 1, r) for r, c in zip(rows, columns, strict=True)]

    def written(self, arrangement: Arrangement, tokenizer: Any) -> str:  # noqa: ANN401 (a class per family)
        around = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        whole = getattr(tokenizer, "global_image_token", "<global-img>")
        image = tokenizer.convert_ids_to_tokens(self.image_token)
        tiles = len(arrangement.views) - 1
        columns = sum(top == 0 for top, *_ in arrangement.boxes[:tiles])
        text = ""
        for number in range(tiles):
            row, column = divmod(number, columns)
            text += f"{around}<row_{row + 1}_col_{column + 1}>{image}" + "\n" * (column + 1 == columns)
        return text + "\n" * bool(tiles) + around + whole + image + around

    def question(self, prompt: Sequence[int], tail: Sequence[int] = ()) -> list[int]:
        words = super().question(prompt, tail)
        first = list(prompt).index(self.image_token) if self.image_token in prompt else 0
        return words[1:] if first > 1 and words[:1] == [prompt[first - 2]] else words  # the token behind an image

    def runs(self, arrangement: Arrangement) -> list[int]:
        return [view.patches for view in arrangement.views]

    def chosen(self, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> ImageInputs:
        counts = [len(arrangement.views) for arrangement in arrangements]
        tiles = _real_tiles(images).split(counts)
        pixels = torch.stack([tiles[row] for row in rows])
        return {
            "pixel_values": pixels,
            "pixel_attention_mask": torch.ones_like(pixels[:, :, 0], dtype=torch.long),
            _KINDS: torch.full(pixels.shape[:2], _WHOLE),
        }

    def derived(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        return {} if inputs.get("pixel_values") is None or _KINDS in inputs else {_KINDS: _kinds(inputs)}

    def pixels(self, images: ImageInputs, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        return _real_tiles(images).unflatten(0, (-1, len(arrangement.views)))

    @property
    def projector(self) -> nn.Module:
        return self.inner.connector.modality_projection

    def joined(self, features: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token joined"]:
        return self.inner.connector.pixel_shuffle(features.contiguous(), self.model.config.scale_factor)

    def pooled(self, values: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token width"]:
        return self.joined(values).unflatten(-1, (-1, values.shape[-1])).mean(-2)

    def _grid(self, images: ImageInputs) -> Grid:
        """Returns the grid of tokens of each tile of these images."""
        return self._tokens(grid_of(images["pixel_values"], self.model.config))

    def _tokens(self, patches: Grid) -> Grid:
        """Returns the grid of tokens that a grid of patches is joined to."""
        factor: int = self.model.config.scale_factor
        return Grid(patches.rows // factor, patches.columns // factor)

    def _check(self, images: ImageInputs, tiles: Sequence[float]) -> None:
        """Checks that runs of placeholders are those of the tiles.

        Raises:
            ValueError: The numbers differ.
            UnsupportedNeed: A part of a tile is masked.
        """
        kinds = _kinds(images)
        count = int((kinds != _PADDING).sum())
        if any(number % 1 for number in tiles) or sum(tiles) != count:
            raise ValueError(
                f"runs of placeholders for {list(tiles)} tiles, but pixel_values has {count} of "
                f"{self._grid(images).patches} tokens each: build the inputs with the model's own processor"
            )
        if (kinds == _MASKED).any():
            raise UnsupportedNeed(
                "pixel_attention_mask marks padding inside a tile: only whole tiles are supported, as the model's own "
                "processor makes them (do_resize=True)"
            )


def _arranged(grid: Grid, tiles: int, rows: int = 0) -> Arrangement:
    """Returns the arrangement of an image.

    Args:
        grid: Grid of tokens of each tile.
        tiles: Number of its tiles, the whole image included.
        rows: Number of rows of tiles; 0 if it is not known, or if the whole image is the only tile.
    """
    columns = (tiles - 1) // rows if rows else 0
    boxes = [
        (row / rows, column / columns, (row + 1) / rows, (column + 1) / columns)
        for row in range(rows)
        for column in range(columns)
    ]
    return arranged(grid, tiles, tuple(boxes) + Arrangement.boxes * bool(rows))


def _tiles(size: tuple[int, int], longest: int, side: int) -> int:
    """Returns the number of tiles that the image processor makes of an image, the whole image included.

    Its own `get_number_of_image_patches` rounds the shorter edge in another way than it resizes images.

    Args:
        size: Height and width of the image in pixels.
        longest: Pixels of the longest edge that it is resized to first.
        side: Side of a tile in pixels.
    """
    resized = internal("models.idefics3.image_processing_pil_idefics3.get_resize_output_image_size")
    height, width = resized(np.broadcast_to(np.uint8(0), size), longest)
    aspect, wide = width / height, width >= height
    long = math.ceil(max(height, width) / side)
    short = math.ceil(int(long * side / aspect if wide else long * side * aspect) / side)
    return 1 if long * short == 1 else long * short + 1


def _kinds(images: Mapping[str, Any]) -> Int[Tensor, "prompt tile"]:
    """Returns whether each tile is padding, whole or partly masked; the stock model takes one of zeros for padding."""
    if (known := images.get(_KINDS)) is not None:
        return known
    real, mask = (images["pixel_values"] != 0).flatten(2).any(2), images.get("pixel_attention_mask")
    masked = torch.zeros_like(real) if mask is None else ~mask.bool().flatten(2).all(2)
    return torch.where(real, torch.where(masked, _MASKED, _WHOLE), _PADDING)


def _real_tiles(images: ImageInputs) -> Float[Tensor, "tile channel height width"]:
    """Returns the tiles of all prompts without padding."""
    real = (_kinds(images) != _PADDING).flatten().nonzero()[:, 0]
    tiles = images["pixel_values"].flatten(0, 1)
    return tiles[on_device(real, tiles.device)]


def _rows_of_tiles(ids: Tensor, image_token: int, tokens: int) -> list[list[float]]:
    """Returns for each image the numbers of tiles in the rows that its runs of placeholders form.

    Two runs belong to one row of tiles if the token that all tiles share and the name of the tile stand between them,
    and to one image if further tokens, but no second shared one, stand before these. The whole image ends with the
    shared token.

    Args:
        ids: (batch, token) token ids.
        image_token: The placeholder.
        tokens: Number of placeholders of a tile.
    """
    images: list[list[float]] = []
    before: tuple[int, int] | None = None
    shared_before: int | None = None
    for row, start, end in runs_of(ids == image_token):
        shared = int(ids[row, start - 2]) if start > 1 else None
        gap = ids[row, before[1] : start].tolist() if before is not None and before[0] == row else []
        if len(gap) >= 2 and gap[-2] == shared == shared_before and shared not in gap[:-2]:
            if len(gap) == 2:
                images[-1][-1] += (end - start) / tokens
            else:
                images[-1].append((end - start) / tokens)
        else:
            images.append([(end - start) / tokens])
            shared_before = shared
        before = row, end
    return images


def _split(rows: Sequence[float]) -> tuple[int, int]:
    """Returns the number of tiles of an image, and that of their rows if they form a grid before the whole image."""
    grid = len(rows) > 1 and rows[-1] == 1 and len(set(rows[:-1])) == 1
    return int(sum(rows)), len(rows) - 1 if grid else 0
