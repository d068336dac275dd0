"""The base of families with images of any size, whose tokens are merged squares of patches with three positions."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.budget import Keep, resolve_keep
from foveate.core.errors import LayerError, UnsupportedNeed
from foveate.core.needs import (
    Deepstack,
    Downsampled,
    Features,
    FrameVectors,
    Keys,
    Need,
    PoolingRows,
    ReceivedRows,
)
from foveate.core.transfer import on_device, rows_of
from foveate.functional.attention import from_others, mean_attention
from foveate.functional.fingerprint import fingerprints
from foveate.functional.pooling_head import mean_query_rows
from foveate.models.backbone.adapter import Adapter, ImageInputs, Tower, downsampled_too_late
from foveate.models.backbone.attention_tap import tapped
from foveate.models.backbone.internals import internal
from foveate.models.backbone.scaling import Scaling, nearest

_TYPICAL = Grid(24, 24)  # visual tokens of 672 x 672 pixels: 48 x 48 patches of 14 pixels, merged 2 x 2


class MergedSquares(Adapter):
    """A model whose tokens are merged squares of patches; values of patches are averaged over them."""

    any_size: ClassVar[bool] = True
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_grid_thw", "mm_token_type_ids")
    position_axes: ClassVar[int] = 3
    packs_projected: ClassVar[bool] = True

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model, model.model.language_model)
        tower, config = self.inner.visual, model.config.vision_config
        self._layer_of = {block.attn: number for number, block in enumerate(tower.blocks)}
        depth = len(tower.blocks)
        whole = getattr(tower, "fullatt_block_indexes", range(depth))
        windowed_layers = tuple(layer for layer in range(depth) if layer not in whole)
        pools = depth - 1 not in windowed_layers
        self.tower = Tower(depth, config.num_heads, depth - 1, False, _TYPICAL, windowed_layers, pools)
        self.side = config.spatial_merge_size
        self.deepstack_levels = len(getattr(config, "deepstack_visual_indexes", ()))

    def layers(self, need: Need) -> tuple[int, ...]:
        if isinstance(need, PoolingRows) and self.tower.pools:
            return (self.tower.depth - 1,)
        layers = super().layers(need)
        if isinstance(need, ReceivedRows) and layers[0] in self.tower.windowed_layers:
            whole = [str(layer) for layer in range(self.tower.depth) if layer not in self.tower.windowed_layers]
            raise LayerError(
                f"{need}: in this layer a patch attends only to its window, so received attention cannot be compared "
                f"across the image; choose one of {', '.join(whole)}, or let foveate.methods.fitting.with_fallbacks do "
                "so"
            )
        return layers

    @property
    def _pixels(self) -> str:
        return self.image_inputs[0]

    @property
    def _grid(self) -> str:
        return self.image_inputs[1]

    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        sizes = images["image_grid_thw"].tolist()
        if any(frames != 1 for frames, _, _ in sizes):
            raise UnsupportedNeed(f"image_grid_thw {sizes}: only images are supported, which have one frame")
        return [Arrangement((Grid(rows // self.side, columns // self.side),)) for _, rows, columns in sizes]

    def chosen(self, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> ImageInputs:
        pixels = images[self._pixels].split([a.patches * self.side**2 for a in arrangements])
        return {
            self._pixels: torch.cat([pixels[row] for row in rows]),
            self._grid: rows_of(images[self._grid], rows),
        }

    def scaling(self, size: tuple[int, int], keep: Keep, alone: bool = True) -> Scaling:
        return self.scaled_within(size, limits_of(self.image_processor.size), lambda own: resolve_keep(keep, own))

    def scaled_within(self, size: tuple[int, int], limits: tuple[int, int], wanted: Callable[[int], float]) -> Scaling:
        """Returns how the image processor gives an image, or a frame, about as many tokens as wanted.

        Args:
            size: Its height and width.
            limits: The smallest and the largest number of pixels at full size.
            wanted: Maps its number of tokens at full size to the wanted one.
        """
        processor, token = self.image_processor, self.pixels_of_token
        lowest, highest = limits

        def within(pixels: int) -> Scaling:
            limits = {"shortest_edge": min(lowest, pixels), "longest_edge": pixels}
            bounds = {
                "size": limits,
                "min_pixels": limits["shortest_edge"],
                "max_pixels": pixels,
            }  # Qwen reads the last
            return Scaling(processor.get_number_of_image_patches(*size, bounds) // self.side**2, {"size": limits})

        own = within(highest).patches
        if (patches := wanted(own)) == own:
            return Scaling(own)
        possible = range(token, highest + 1, token)
        enough = bisect_left(possible, patches, key=lambda pixels: within(pixels).patches)
        around = possible[max(enough - 1, 0) : enough + 1]  # the number of tokens rises with the limit
        return nearest([*map(within, around), Scaling(own)], patches)

    @property
    def pixels_of_token(self) -> int:
        """The number of pixels that a token adds to those which the image processor limits."""
        return (self.image_processor.patch_size * self.image_processor.merge_size) ** 2

    def vision_grids(self, images: ImageInputs, arrangement: Arrangement) -> tuple[Grid, ...]:
        return tuple(Grid(grid.rows * self.side, grid.columns * self.side) for grid in arrangement.views)

    def pixels(self, images: ImageInputs, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        config: Any = self.model.config.vision_config
        grid, side, patch = arrangement.views[0], self.side, config.patch_size
        rows = images[self._pixels]  # one patch per row, square by square, with the frames that are merged
        flat = rows.reshape(-1, grid.rows, grid.columns, side, side, 3, config.temporal_patch_size, patch, patch)
        frames = flat[:, :, :, :, :, :, : self._merged(arrangement)].permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
        tiles = frames.reshape(-1, 3, grid.rows * side * patch, grid.columns * side * patch)
        return tiles.unflatten(0, (-1, len(arrangement.views) * self._merged(arrangement)))

    def _merged(self, arrangement: Arrangement) -> int:
        """Returns how many different frames a token of such an image or video merges in time: 1 for an image."""
        config: Any = self.model.config.vision_config
        return config.temporal_patch_size if arrangement.frames else 1

    def per_token(
        self, values: Float[Tensor, "image tile patch width"], images: ImageInputs, arrangement: Arrangement
    ) -> Float[Tensor, "image token width"]:
        grid = arrangement.views[0]
        frames = values.unflatten(1, (-1, self._merged(arrangement))).mean(2)
        squares = frames.unflatten(2, (grid.rows, self.side, grid.columns, self.side))
        return squares.mean((3, 5)).flatten(1, 3)

    def fingerprints(self, images: ImageInputs, arrangement: Arrangement) -> Int[Tensor, " image"]:
        return fingerprints(images[self._pixels].reshape(len(images[self._grid]), -1))

    @property
    def projector(self) -> nn.Module:
        return self.inner.visual.merger

    def encode(
        self, images: ImageInputs, arrangement: Arrangement, needs: Sequence[Need]
    ) -> tuple[Float[Tensor, "image source dim"], dict[Need, Tensor]]:
        wanted = {need: self.layers(need) for need in needs}
        recorded: dict[Need, list[Tensor]] = {need: [] for need, layers in wanted.items() if layers}
        patches, count = arrangement.views[0].patches * self.side**2, len(images[self._grid])

        def listen(layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
            for need in (need for need in recorded if layer in wanted[need]):
                # FlashAttention takes several images per call, other kernels one image or window.
                q, k = (x.detach()[0].transpose(0, 1) for x in (query, key))
                recorded[need].append(_answer(need, q, k, scaling, patches, self.side**2))

        with tapped(self.inner.visual, self._layer_of, listen) if recorded else nullcontext():
            output, unmerged = self._run_tower(images)
        order = on_device(self._order(images[self._grid]), images[self._pixels].device)
        tokens = torch.stack(list(output.pooler_output))
        values = self.pixel_statistics(images, arrangement, needs)
        for need in needs:
            match need:
                case Features(projected=True):
                    values[need] = tokens
                case Features():
                    squares = unmerged.reshape(count * arrangement.patches, -1)
                    values[need] = squares[order].unflatten(0, (count, -1))
                case FrameVectors() if self.tower.pools:
                    values[need] = tokens.unflatten(1, (arrangement.frames or 1, -1)).mean(2)
                case Deepstack():
                    values[need] = torch.stack([torch.stack(list(level)) for level in output.deepstack_features], 1)
                case Downsampled():
                    raise UnsupportedNeed(downsampled_too_late(need))
                case _ if need in recorded:  # (patch or token of all images, head, ...), in the tower's order
                    rows = torch.cat(recorded[need])
                    merged = rows if need == PoolingRows() else rows.unflatten(0, (-1, self.side**2)).mean(1)
                    image = merged[order].unflatten(0, (count, -1))
                    values[need] = image if isinstance(need, Keys) else image.transpose(1, 2)
        return tokens, values

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return features  # the tower's merger has projected them

    def exact_projector(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        merge = super().exact_projector(dtype)

        def project(features: Tensor) -> Tensor:
            """Merges the squares of patches, which the merger takes one patch per row."""
            rows = features.reshape(-1, features.shape[-1] // self.side**2)
            return merge(rows).unflatten(0, features.shape[:-1])

        return project

    def rope(
        self, inputs: Mapping[str, Any], mask: Tensor, arrangements: Sequence[Arrangement]
    ) -> Int[Tensor, "axis batch token"]:
        ids, config = inputs["input_ids"], self.model.config
        images = [one for one in arrangements if not one.frames]
        videos = [one for one in arrangements if one.frames]
        kind = (ids == config.image_token_id).int()
        given: dict[str, Tensor] = {"image_grid_thw": self._sizes(images).to(ids.device)}
        if videos:
            kind = torch.where(ids == config.video_token_id, 2, kind)
            given["video_grid_thw"] = self._sizes(videos).to(ids.device)
            steps = [one.seconds[1] - one.seconds[0] if len(one.seconds) > 1 else 1.0 for one in videos]
            given["second_per_grid_ts"] = torch.tensor(steps, device=ids.device)
        position, _ = self.inner.get_rope_index(ids, mm_token_type_ids=kind, attention_mask=mask, **given)
        return position

    def _sizes(self, arrangements: Sequence[Arrangement]) -> Int[Tensor, "image axis"]:
        """Returns the number of frames, rows and columns of patches of images or videos."""
        grids = [(max(one.frames, 1), one.views[0]) for one in arrangements]
        sizes = [(frames, grid.rows * self.side, grid.columns * self.side) for frames, grid in grids]
        return torch.tensor(sizes, dtype=torch.long).reshape(-1, 3)

    def output(self, tokens: Sequence[Tensor], deep: Sequence[Sequence[Tensor]]) -> BaseModelOutputWithPooling:
        listed: Any = list(tokens)
        if not self.deepstack_levels:
            return BaseModelOutputWithPooling(pooler_output=listed)
        levels: Any = [list(level) for level in deep]
        output = internal("models.qwen3_vl.modeling_qwen3_vl.BaseModelOutputWithDeepstackFeatures")
        return output(pooler_output=listed, deepstack_features=levels)

    def _run_tower(self, images: ImageInputs) -> tuple[Any, Tensor]:
        """Returns the stock model's image features, and the patches that enter the merger."""
        merger_inputs: list[Tensor] = []
        with self.projector.register_forward_pre_hook(lambda _, args: merger_inputs.append(args[0])):
            pixels, grid = images[self._pixels], images[self._grid]
            output = self.inner.get_image_features(pixels, on_device(grid, pixels.device), return_dict=True)
        return output, merger_inputs[0]

    def _order(self, grid: Tensor) -> Tensor:
        """Returns the index of each token in the tower's output, which is ordered window by window."""
        tower = self.inner.visual
        if not hasattr(tower, "window_size"):
            return torch.arange(int(grid.prod(1).sum()) // self.side**2, device=grid.device)
        window_index, _ = internal("vision_utils.get_vision_window_index")(
            grid, spatial_merge_size=self.side, window_size=tower.window_size, patch_size=tower.patch_size, kwargs={}
        )
        return window_index.argsort()


def limits_of(size: Any) -> tuple[int, int]:  # noqa: ANN401 (as an image processor has it)
    """Returns the smallest and the largest number of pixels that the sizes of an image processor allow."""
    return size["shortest_edge"], size["longest_edge"]


def _answer(need: Need, query: Tensor, key: Tensor, scaling: float, patches: int, merged: int) -> Tensor:
    """Returns the answer of one attention call: (patch, head, ...); of the mean query (token, head).

    Args:
        need: Keys, received attention or that of the mean query.
        query: (token, head, dim).
        key: (token, head, dim).
        scaling: Factor of the products of query and key.
        patches: Number of patches per image; patches attend only to those of their image.
        merged: Number of patches that a token merges.
    """
    if isinstance(need, Keys):
        return key
    if isinstance(need, PoolingRows):
        frames = [x.float().unflatten(0, (-1, patches)) for x in (query, key)]
        return mean_query_rows(frames[0], frames[1], merged).transpose(1, 2).flatten(0, 1)
    images = [x.unflatten(0, (-1, patches)).transpose(1, 2) for x in (query, key)]
    if isinstance(need, ReceivedRows) and need.others:
        return from_others(images[0], images[1], scaling).transpose(1, 2).flatten(0, 1)
    rows = torch.ones(images[0].shape[0], patches, device=query.device)
    return mean_attention(images[0], images[1], scaling, rows).transpose(1, 2).flatten(0, 1)
