"""Models that cut a picture into tiles, each a picture of the tower, and pack the patches of all."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.errors import UnsupportedModel, UnsupportedNeed
from foveate.core.needs import ClsQuery, Downsampled, Features, Fingerprint, Keys, Need, PixelStatistic
from foveate.core.types import Arrangement, Grid
from foveate.functional.fingerprint import fingerprints
from foveate.models.adapter import Adapter, Images, Tower
from foveate.models.internals import internal
from foveate.models.llava import clip_like, square
from foveate.models.tiles import TileTower, hidden, writing

_BREAK = -1.0  # marks where the packing code puts what is no patch


class Tiled(Adapter):
    """What is asked of the tower is answered tile by tile and packed by the model's own code."""

    tiles: TileTower

    @property
    def keeps_cls(self) -> bool:
        return False  # every tile has its own

    def joined(self, features: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token joined"]:
        """What one token is made of, where that is several patches of the tower."""
        return features

    def pooled(self, values: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token width"]:
        """What is known of patches, as the mean over those of a token."""
        return values

    def packed(
        self, tiles: Float[Tensor, "image tile token width"], images: Images, arrangement: Arrangement
    ) -> Float[Tensor, "image patch width"]:
        """The tokens of all tiles in the order of the placeholders; without what is no patch."""
        return tiles.flatten(1, 2)

    def per_token(
        self, values: Float[Tensor, "image tile patch width"], images: Images, arrangement: Arrangement
    ) -> Float[Tensor, "image token width"]:
        pooled = self.pooled(values.flatten(0, 1))
        return self.packed(pooled.unflatten(0, (len(values), -1)), images, arrangement)

    def sights(self, images: Images, arrangement: Arrangement) -> tuple[Grid, ...]:
        return (square(self.model.config),) * self.pixels(images, arrangement).shape[1]

    def encode(
        self, images: Images, arrangement: Arrangement, needs: Sequence[Need]
    ) -> tuple[Float[Tensor, "image source dim"], dict[Need, Tensor]]:
        for need in needs:
            if isinstance(need, ClsQuery | Downsampled):
                raise UnsupportedNeed(
                    f"{need}: {type(self.model).__name__} cuts a picture into tiles, of which each has its own"
                )
        pixels = self.pixels(images, arrangement)
        sources, answers = self.tiles.encode(pixels.flatten(0, 1), {need: self.layers(need) for need in needs})
        patches = sources.shape[1] - self.tower.has_cls

        def pack(tiles: Tensor) -> Tensor:
            return self.packed(tiles.unflatten(0, (len(pixels), -1)), images, arrangement)

        def pack_values(tiles: Tensor) -> Tensor:
            """(tile, patch, ...) to (image, patch, ...)."""
            values = tiles.flatten(2).unflatten(0, (len(pixels), -1))
            return self.per_token(values, images, arrangement).unflatten(-1, tiles.shape[2:])

        features = self.joined(sources[:, :patches])
        tokens = pack(super().project(features) if self.packs_projected else features)
        values: dict[Need, Tensor] = {}
        for need in needs:
            match need:
                case Keys():
                    values[need] = pack_values(answers[need][:, :patches].float())
                case Fingerprint():
                    values[need] = fingerprints(pixels)
                case PixelStatistic():
                    values[need] = self.pixel_statistic(images, arrangement, need)
                case Features(projected=True):
                    values[need] = self.project(tokens)
                case Features():
                    values[need] = pack(features) if self.packs_projected else tokens
                case _ if need in answers:
                    values[need] = pack_values(answers[need].movedim(-1, 1)).movedim(1, -1)
        return tokens, values

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return features if self.packs_projected else super().project(features)


class AnyResolution(Tiled):
    """The whole picture, then its enlargement: tiles, without what pads them, a separator at the end of each row."""

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model, model.model.language_model)
        self.tiles = clip_like(model)
        self.tower = self.tiles.about
        self.separator = self.inner.image_newline
        self._known: dict[tuple[int, int], Arrangement] = {}

    def arrangements(self, images: Images, runs: Sequence[int]) -> list[Arrangement]:
        pixels, sizes = images.get("pixel_values"), images["image_sizes"].tolist()
        if pixels is not None and pixels.ndim != 5:
            raise ValueError(
                f"pixel_values of shape {tuple(pixels.shape)}: expected (image, tile, channel, height, width), as the "
                "model's own processor gives them"
            )
        known = [self._arranged((int(height), int(width))) for height, width in sizes]
        return [own if cut else self._whole for own, cut in zip(known, self._cut(images), strict=True)]

    def chosen(self, images: Images, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> Images:
        return {name: images[name][list(rows)] for name in ("pixel_values", "image_sizes")}

    def pixels(self, images: Images, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        whole = arrangement == self._whole
        return images["pixel_values"][:, : 1 if whole else self.count(images["image_sizes"][0])]

    def packed(
        self, tiles: Float[Tensor, "image tile token width"], images: Images, arrangement: Arrangement
    ) -> Float[Tensor, "image patch width"]:
        sizes = images["image_sizes"]  # images of one arrangement may be unpadded differently
        stands = arrangement.offsets.to(tiles.device)
        newline = torch.full(tiles.shape[-1:], _BREAK, dtype=tiles.dtype, device=tiles.device)
        return torch.stack([self.pack(tile, size, newline)[stands] for tile, size in zip(tiles, sizes, strict=True)])

    def count(self, size: Tensor) -> int:
        """Number of tiles of a picture of this height and width."""
        config: Any = self.model.config
        image_size_to_num_patches = internal("models.llava_next.modeling_llava_next.image_size_to_num_patches")
        return image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)

    @cached_property
    def _whole(self) -> Arrangement:
        """How a picture is arranged that is not cut: its tokens, then one separator."""
        base = square(self.model.config)
        return Arrangement((base,), (), separators=(base.patches,))  # the square around it shows more than it

    def _cut(self, images: Images) -> list[bool]:
        """Tells which pictures are cut into tiles."""
        return [True] * len(images["image_sizes"])

    @abstractmethod
    def pack(self, tiles: Float[Tensor, "tile patch width"], size: Tensor, newline: Tensor) -> Tensor:
        """The model's own packing of one picture."""

    def _arranged(self, size: tuple[int, int]) -> Arrangement:
        if size not in self._known:
            where = torch.tensor(size)
            count, patches = self.count(where), square(self.model.config).patches
            mark = torch.eye(count)[:, None].expand(-1, patches, -1)  # of each patch its tile; shrinking may mix them
            self._known[size] = _read(self.pack(mark, where, torch.full((count,), _BREAK)), square(self.model.config))
        return self._known[size]


def _read(run: Float[Tensor, "token tile"], base: Grid) -> Arrangement:
    """From how much of each token every tile shows, -1 where it is no patch."""
    separators = tuple((run[:, 0] < 0).nonzero()[:, 0].tolist())
    tiles = tuple(run[run[:, 0] >= 0].argmax(1).tolist())
    if len(tiles) == base.patches:
        return Arrangement((base,), separators=separators)
    rows = len(separators)
    enlarged = Grid(rows, (len(tiles) - base.patches) // rows)
    return Arrangement((base, enlarged), Arrangement.boxes * 2, separators, tiles)


class LlavaNext(AnyResolution):
    """LLaVA-NeXT, also called 1.6."""

    def pack(self, tiles: Float[Tensor, "tile patch width"], size: Tensor, newline: Tensor) -> Tensor:
        strategy = self.model.config.vision_feature_select_strategy
        return self.inner.pack_image_features([tiles], size[None], strategy, newline)[0][0]


class LlavaOnevision(AnyResolution):
    """LLaVA-OneVision, which shrinks large enlargements behind the projector.

    Only the picture of a prompt with one is cut into tiles: pictures of a prompt with several are padded to squares.
    """

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes", "batch_num_images")
    packs_projected: ClassVar[bool] = True

    def _cut(self, images: Images) -> list[bool]:
        counts = images.get("batch_num_images")
        if counts is None:  # which the stock model takes for one picture per prompt
            return super()._cut(images)
        cut = [count == 1 for count in counts.tolist() for _ in range(count)]
        if len(cut) != len(images["image_sizes"]):
            raise ValueError(
                f"batch_num_images {counts.tolist()} of {len(images['image_sizes'])} pictures: expected how many each "
                "prompt has, as the model's own processor gives it for nested lists of pictures"
            )
        return cut

    def pack(self, tiles: Float[Tensor, "tile patch width"], size: Tensor, newline: Tensor) -> Tensor:
        ratio = self.model.config.vision_aspect_ratio
        return self.inner.pack_image_features([tiles], size[None], newline, ratio)[0][0]


class InternVL(Tiled):
    """InternVL: a token is a square of patches, by pixel shuffle; tile after tile, the whole picture last."""

    image_options: ClassVar[Mapping[str, Any]] = {"crop_to_patches": True}
    around: ClassVar[tuple[str, ...]] = ("start_image_token_id", "end_image_token_id")

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model, model.model.language_model)
        tower, config = self.inner.vision_tower, model.config
        layers, chosen = tower.encoder.layer, config.vision_feature_layer
        if config.vision_feature_select_strategy != "default":
            raise UnsupportedModel("InternVL with vision_feature_select_strategy='full' is not supported")

        def states(pixels: Tensor, last: int) -> Tensor:
            whole = tower(pixels.to(model.dtype), output_hidden_states=chosen != -1)
            return whole.last_hidden_state if chosen == -1 else hidden(whole.hidden_states, chosen, len(layers))

        whole, heads = square(config), config.vision_config.num_attention_heads
        grid = Grid(int(whole.rows * config.downsample_ratio), int(whole.columns * config.downsample_ratio))
        self.tower = Tower(len(layers), heads, writing(chosen, len(layers)), True, grid)
        self.tiles = TileTower(tower, [layer.attention for layer in layers], self.tower, states)

    def arrangements(self, images: Images, runs: Sequence[int]) -> list[Arrangement]:
        tiles = self.tower.grid.patches
        if any(run % tiles for run in runs) or sum(runs) != len(images["pixel_values"]) * tiles:
            raise ValueError(
                f"runs of {list(runs)} image tokens for {len(images['pixel_values'])} tiles of {tiles}: build the "
                "inputs with the model's own processor"
            )
        return [self._arranged(run // tiles) for run in runs]

    def chosen(self, images: Images, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> Images:
        tiles = images["pixel_values"].split([len(arrangement.views) for arrangement in arrangements])
        return {"pixel_values": torch.cat([tiles[row] for row in rows])}

    def pixels(self, images: Images, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        return images["pixel_values"].unflatten(0, (-1, len(arrangement.views)))

    def joined(self, features: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token joined"]:
        side = square(self.model.config)
        picture = features.unflatten(1, (side.rows, side.columns)).contiguous()  # of which the model takes views
        return self.inner.pixel_shuffle(picture, scale_factor=self.model.config.downsample_ratio).flatten(1, 2)

    def pooled(self, values: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token width"]:
        return self.joined(values).unflatten(-1, (-1, values.shape[-1])).mean(-2)

    def joined_output(self, output: BaseModelOutputWithPooling) -> BaseModelOutputWithPooling:
        features: Any = output.pooler_output
        return (
            output
            if isinstance(features, Tensor)
            else BaseModelOutputWithPooling(pooler_output=torch.cat(features)[None])
        )

    def _arranged(self, tiles: int) -> Arrangement:
        if tiles == 1:
            return Arrangement((self.tower.grid,))
        number = tuple(tile for tile in range(tiles) for _ in range(self.tower.grid.patches))
        return Arrangement((self.tower.grid,) * tiles, (), tiles=number)


class LlavaNextVideo(Tiled):
    """LLaVA-NeXT-Video, for videos: frame by frame, patches of a frame pooled."""

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
    modality = "video"

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model, model.model.language_model)
        self.tiles = clip_like(model)
        whole, stride = self.tiles.about.grid, model.config.spatial_pool_stride
        self.tower = replace(self.tiles.about, grid=Grid(whole.rows // stride, whole.columns // stride))

    @property
    def image_token(self) -> int:
        return self.model.config.video_token_id

    def arrangements(self, images: Images, runs: Sequence[int]) -> list[Arrangement]:
        videos, frames = images["pixel_values_videos"].shape[:2]
        number = tuple(frame for frame in range(frames) for _ in range(self.tower.grid.patches))
        return [Arrangement((self.tower.grid,) * frames, Arrangement.boxes * frames, tiles=number)] * videos

    def chosen(self, images: Images, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> Images:
        return {"pixel_values_videos": images["pixel_values_videos"][list(rows)]}

    def pixels(self, images: Images, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        return images["pixel_values_videos"]

    def joined(self, features: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token joined"]:
        return self.inner.vision_resampler(features)

    def pooled(self, values: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token width"]:
        return self.inner.vision_resampler(values)
