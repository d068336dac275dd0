"""The adapters of videos in models whose tower takes frames one by one and pools each."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from PIL.Image import Image, Resampling
from torch import Tensor

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.budget import Keep, resolve_keep
from foveate.core.errors import DataError
from foveate.core.transfer import rows_of
from foveate.data.clip import Clip
from foveate.models.backbone.adapter import ImageInputs
from foveate.models.families.llava import clip_like, grid_of
from foveate.models.families.llava_next import LlavaNext
from foveate.models.families.tiled import Tiled, arranged


class Frames(Tiled):
    """Videos as frames of one size, each an input of the tower."""

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
    modality = "video"
    no_single_answer: ClassVar[str] = "has a [CLS] token for each frame, so there is no single answer for a video"

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model, model.model.language_model)
        self.tiles = clip_like(model)

    @cached_property
    def image_token(self) -> int:
        return self.model.config.video_token_id

    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        pixels = images["pixel_values_videos"]
        if pixels.ndim != 5:
            raise ValueError(
                f"pixel_values_videos of shape {tuple(pixels.shape)}: expected (video, frame, channel, height, width), "
                "as the model's own processor gives them"
            )
        grid = self.token_grid(pixels)
        videos, frames = pixels.shape[:2]
        last = () if self.separator is None else (frames * grid.patches,)
        arrangement = arranged(grid, frames, Arrangement.boxes * frames)
        return [replace(arrangement, separators=last, frames=frames)] * videos

    def prepared_videos(self, clips: Sequence[Clip], keep: Keep | None = None) -> tuple[ImageInputs, list[Arrangement]]:
        if len(counts := sorted({len(clip.frames) for clip in clips})) > 1:
            raise DataError(
                f"videos of {', '.join(map(str, counts))} frames: one call of {type(self.model).__name__} takes videos "
                "of equally many frames; prepare them one by one"
            )
        side = self.model.config.vision_config.image_size
        frames = [self.square(frame) for clip in clips for frame in clip.frames]
        # Of an image as large as one tile, the first of the two inputs is the image itself.
        prepared = self.image_processor(frames, image_grid_pinpoints=[[side, side]], return_tensors="pt")
        pixels = prepared["pixel_values"][:, 0].unflatten(0, (len(clips), -1))
        inputs = {"pixel_values_videos": pixels}
        found = zip(clips, self.arrangements(inputs, []), strict=True)
        return inputs, [replace(one, boxes=(self.box(clip.frames[0].size),) * one.frames) for clip, one in found]

    def token_grid(self, pixels: Float[Tensor, "video frame channel height width"]) -> Grid:
        """Returns the grid of tokens of each frame."""
        return self.tower.grid

    def square(self, frame: Image) -> Image:
        """Returns a frame as the image processor takes it, which resizes it to the square of the tower."""
        return frame

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Returns the part of a frame of this width and height that `square` shows; see `Arrangement.boxes`."""
        return (0.0, 0.0, 1.0, 1.0)

    def chosen(self, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> ImageInputs:
        return {"pixel_values_videos": rows_of(images["pixel_values_videos"], rows)}

    def pixels(self, images: ImageInputs, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        return images["pixel_values_videos"]


class LlavaNextVideo(LlavaNext):
    """Images in LLaVA-NeXT-Video, as in LLaVA-NeXT."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model)
        self.other = LlavaNextVideos(model)


class LlavaNextVideos(Frames):
    """Videos in LLaVA-NeXT-Video, whose patches are pooled before the projector."""

    makes_smaller_videos: ClassVar[bool] = True

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model)
        patches, self.stride = self.tiles.properties.grid, model.config.spatial_pool_stride
        grid = Grid(patches.rows // self.stride, patches.columns // self.stride)
        self.tower = replace(self.tiles.properties, grid=grid)

    def token_grid(self, pixels: Float[Tensor, "video frame channel height width"]) -> Grid:
        patches = grid_of(pixels, self.model.config)
        return Grid(patches.rows // self.stride, patches.columns // self.stride)

    def prepared_videos(self, clips: Sequence[Clip], keep: Keep | None = None) -> tuple[ImageInputs, list[Arrangement]]:
        inputs, arrangements = super().prepared_videos(clips)
        if keep is None:
            return inputs, arrangements
        small = {"pixel_values_videos": self._smaller(inputs["pixel_values_videos"], keep)}
        found = zip(arrangements, self.arrangements(small, []), strict=True)
        return small, [replace(one, boxes=full.boxes) for full, one in found]

    def _smaller(
        self, pixels: Float[Tensor, "video frame channel height width"], keep: Keep
    ) -> Float[Tensor, "video frame channel rows columns"]:
        """Returns frames of the square size whose number of tokens is nearest to a budget of each video."""
        frames, own = pixels.shape[1], self.tower.grid
        wanted = resolve_keep(keep, frames * own.patches) / frames
        side = min(range(1, own.rows + 1), key=lambda rows: (abs(rows**2 - wanted), rows))
        if side == own.rows:
            return pixels
        edge = side * self.stride * self.model.config.vision_config.patch_size
        small = F.interpolate(pixels.flatten(0, 1), size=(edge, edge), mode="bicubic", antialias=True)
        return small.unflatten(0, pixels.shape[:2])

    def square(self, frame: Image) -> Image:
        """Returns the middle of a frame that is resized to the tower's side, as the stock video processor cuts it."""
        side, short = self.model.config.vision_config.image_size, min(frame.size)
        width, height = (length * side // short for length in frame.size)
        resized = frame.resize((width, height), Resampling.BICUBIC)
        left, top = (width - side) // 2, (height - side) // 2
        return resized.crop((left, top, left + side, top + side))

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        width, height = size
        short = min(size)
        left, top = (width - short) / 2 / width, (height - short) / 2 / height
        return (top, left, 1 - top, 1 - left)

    def joined(self, features: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token joined"]:
        return self.inner.vision_resampler(features)

    def pooled(self, values: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token width"]:
        return self.inner.vision_resampler(values)
