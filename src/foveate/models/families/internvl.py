"""The adapters of images and videos in InternVL."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.budget import Keep, resolve_keep
from foveate.core.errors import DataError, UnsupportedModel
from foveate.data.clip import Clip
from foveate.functional.sequence import runs_of
from foveate.models.backbone.adapter import ImageInputs, Tower
from foveate.models.backbone.pixels import pair
from foveate.models.backbone.scaling import Scaling, nearest
from foveate.models.backbone.tile_tower import TileTower, feature_layer_of, selected_states
from foveate.models.families.llava import grid_of, tile_grid
from foveate.models.families.tiled import Tiled, arranged, concatenated

_BEFORE_FRAME = 16  # tokens before a run of placeholders among which the name of a frame is looked for


class Shuffled(Tiled):
    """Images or videos of InternVL, whose tokens are squares of patches (pixel shuffle), tile by tile."""

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


class InternVL(Shuffled):
    """Images in InternVL, the whole image behind its tiles; the inputs hold images and videos in reading order.

    In a prompt both have the same placeholders. A video is a run of one tile behind "Frame1: " and those that follow it
    behind "Frame2: " and so on, as the stock processor writes them; other runs are images. Without a tokenizer, which
    reads these words, each frame is an image of its own.
    """

    image_options: ClassVar[Mapping[str, Any]] = {"crop_to_patches": True}
    shares_inputs: ClassVar[bool] = True

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model)
        self.other = InternVLVideos(model)

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

    def arrangements_in(self, images: ImageInputs, ids: Int[Tensor, "batch token"]) -> list[Arrangement]:
        runs, tile = runs_of(ids == self.image_token), self._grid(images).patches
        numbers = [self._frame(ids[row], start, end - start == tile) for row, start, end in runs]
        lengths: list[int] = []
        frames: list[int] = []  # of each image or video
        for place, (row, start, end) in enumerate(runs):
            before = runs[place - 1] if place else (-1, 0, 0)
            following = bool(frames) and frames[-1] > 0 and before[0] == row and numbers[place] == frames[-1] + 1
            if following and self._follows(ids[row, before[2] : start], numbers[place]):
                frames[-1] += 1
                lengths[-1] += tile
            else:
                frames.append(int(numbers[place] == 1))
                lengths.append(end - start)
        found = self.arrangements(images, lengths)
        return [_video(one.views[0], count) if count else one for one, count in zip(found, frames, strict=True)]

    def joined_inputs(
        self,
        images: tuple[ImageInputs, Sequence[Arrangement]],
        videos: tuple[ImageInputs, Sequence[Arrangement]],
        ids: Int[Tensor, "batch token"],
    ) -> ImageInputs:
        given = [inputs["pixel_values"] for inputs, _ in (images, videos) if inputs]
        if not given:
            return {}
        found = self.arrangements_in({"pixel_values": torch.cat(given)}, ids)
        tiles = {}
        for is_video, (inputs, arrangements) in enumerate((images, videos)):
            if [one for one in found if bool(one.frames) == is_video] != list(arrangements):
                raise DataError(
                    "a prompt has an image behind the words that name the next frame of a video, such as 'Frame1: ', "
                    "so that images and videos cannot be told apart: change these words"
                )
            counts = [len(one.views) for one in arrangements]
            tiles[bool(is_video)] = iter(inputs["pixel_values"].split(counts) if counts else ())
        return {"pixel_values": torch.cat([next(tiles[bool(one.frames)]) for one in found])}

    def _frame(self, prompt: Int[Tensor, " token"], start: int, one_tile: bool) -> int:
        """Returns the number of the frame that a run of placeholders is named, or 0.

        Args:
            prompt: The prompt.
            start: Place of the run.
            one_tile: Whether it has the length of a tile.
        """
        if self.tokenizer is None or not one_tile:
            return 0
        text = self._text(prompt[max(0, start - _BEFORE_FRAME) : start])
        name = re.search(rf"Frame([1-9][0-9]*): {re.escape(self.tokenizer.start_image_token)}$", text)
        return int(name[1]) if name else 0

    def _follows(self, between: Int[Tensor, " token"], number: int) -> bool:
        """Returns whether nothing but the name of a frame stands between two runs of placeholders."""
        words = self.tokenizer
        return self._text(between) == f"{words.end_image_token}{_name(number)}{words.start_image_token}"

    def _text(self, ids: Int[Tensor, " token"]) -> str:
        return self.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)


class InternVLVideos(Shuffled):
    """Videos in InternVL: frames of one tile each, which the prompt names."""

    modality = "video"
    image_mark: ClassVar[str] = "video_token"

    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        """Returns the arrangement of each video; `runs` are the numbers of placeholders of all its frames."""
        grid = self._grid(images)
        return [_video(grid, run // grid.patches) for run in runs]

    def prepared_videos(self, clips: Sequence[Clip], keep: Keep | None = None) -> tuple[ImageInputs, list[Arrangement]]:
        size = self.video_settings.get("size", {})
        options = {"size": size} if {"height", "width"} <= set(size) else {}
        frames = [frame for clip in clips for frame in clip.frames]
        prepared = self.image_processor(frames, crop_to_patches=False, return_tensors="pt", **options)
        inputs = {"pixel_values": prepared["pixel_values"]}
        return inputs, [_video(self._grid(inputs), len(clip.frames)) for clip in clips]

    def runs(self, arrangement: Arrangement) -> list[int]:
        return [view.patches for view in arrangement.views]

    def written(self, arrangement: Arrangement, tokenizer: Any) -> str:  # noqa: ANN401 (a class per family)
        token = tokenizer.convert_ids_to_tokens(self.image_token)
        return "".join(f"{_name(number + 1)}{token}" for number in range(arrangement.frames)).lstrip()


def _name(number: int) -> str:
    """Returns the text before a frame that follows another."""
    return f"\nFrame{number}: "


def _video(grid: Grid, frames: int) -> Arrangement:
    """Returns the arrangement of a video of so many frames."""
    boxes = Arrangement.boxes * frames
    return replace(arranged(grid, frames, boxes), boxes=boxes, frames=frames)
