"""The adapters of Qwen2.5-VL and Qwen3-VL."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.budget import Keep, resolve_keep
from foveate.data.clip import Clip
from foveate.models.backbone.adapter import ImageInputs
from foveate.models.families.merged_squares import MergedSquares, limits_of
from foveate.models.families.tiled import arranged


class QwenVL(MergedSquares):
    """Images in Qwen2.5-VL or Qwen3-VL."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model)
        self.other = QwenVideos(model)


class QwenVideos(MergedSquares):
    """Videos in Qwen2.5-VL or Qwen3-VL, which merge frames in pairs; a pair counts as one frame."""

    image_inputs: ClassVar[tuple[str, ...]] = (
        "pixel_values_videos",
        "video_grid_thw",
        "second_per_grid_ts",
        "mm_token_type_ids",
    )
    modality = "video"
    makes_smaller_videos: ClassVar[bool] = True

    @cached_property
    def image_token(self) -> int:
        return self.model.config.video_token_id

    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        sizes, steps = images["video_grid_thw"].tolist(), images.get("second_per_grid_ts")
        seconds = [1.0] * len(sizes) if steps is None else torch.as_tensor(steps).tolist()
        grids = (arranged(Grid(rows // self.side, columns // self.side), frames) for frames, rows, columns in sizes)
        return [
            replace(
                one,
                boxes=Arrangement.boxes * frames,
                frames=frames,
                seconds=tuple(step * frame for frame in range(frames)),
            )
            for one, (frames, _, _), step in zip(grids, sizes, seconds, strict=True)
        ]

    @property
    def _timed(self) -> bool:
        """Returns whether a prompt has the time before each frame, as in Qwen3-VL, instead of positions with time."""
        return self.model.config.model_type != "qwen2_5_vl"

    def prepared_videos(self, clips: Sequence[Clip], keep: Keep | None = None) -> tuple[ImageInputs, list[Arrangement]]:
        """Returns model inputs and arrangements of videos; the last of an odd number of frames is repeated."""
        pixels, grids = zip(*(self._patches(clip, keep) for clip in clips), strict=True)
        inputs = {"pixel_values_videos": torch.cat(pixels), "video_grid_thw": torch.stack(grids)}
        if not self._timed:
            inputs["second_per_grid_ts"] = torch.tensor([self._together / clip.fps for clip in clips])
        arrangements = self.arrangements(inputs, [])
        if self._timed:
            arrangements = [
                replace(one, seconds=self._middles(clip)) for clip, one in zip(clips, arrangements, strict=True)
            ]
        return inputs, arrangements

    @property
    def _together(self) -> int:
        """The number of frames that are merged in time."""
        return self.model.config.vision_config.temporal_patch_size

    def _middles(self, clip: Clip) -> tuple[float, ...]:
        """Returns the times in the middle of frames that are merged."""
        times = [*clip.seconds, *[clip.seconds[-1]] * (-len(clip.seconds) % self._together)]
        ends = zip(times[:: self._together], times[self._together - 1 :: self._together], strict=True)
        return tuple((first + last) / 2 for first, last in ends)

    def _patches(self, clip: Clip, keep: Keep | None) -> tuple[Float[Tensor, "patch width"], Int[Tensor, " axis"]]:
        """Returns the patches of a video and its number of frames, rows and columns, frames merged."""
        merged, patch = self._together, self.model.config.vision_config.patch_size
        frames = [*clip.frames, *[clip.frames[-1]] * (-len(clip.frames) % merged)]
        prepared = self.image_processor(frames, return_tensors="pt", **self._options(clip, len(frames) // merged, keep))
        # Of an image, every patch holds two copies of it; here the second becomes the next frame.
        rows = prepared["pixel_values"].unflatten(1, (3, merged, patch**2))[:, :, 0]
        grid = prepared["image_grid_thw"][0]
        pairs = rows.unflatten(0, (len(frames) // merged, merged, -1)).permute(0, 2, 3, 1, 4)
        return pairs.flatten(0, 1).flatten(1), grid * torch.tensor([len(frames) // merged, 1, 1])

    def _options(self, clip: Clip, frames: int, keep: Keep | None) -> dict[str, Any]:
        """Returns the options of the image processor for frames that make a video of about `keep` tokens."""
        limits = self._limits(len(clip.frames))
        if keep is None:
            return limits
        width, height = clip.frames[0].size
        bounds = limits_of(limits.get("size", self.image_processor.size))
        scaling = self.scaled_within((height, width), bounds, lambda own: resolve_keep(keep, own * frames) / frames)
        return {**limits, **scaling.options}

    def _limits(self, frames: int) -> dict[str, Any]:
        """Returns the options of the image processor that limit the pixels of a frame as those of videos are limited.

        Those of Qwen3-VL count the pixels of all frames. Without settings of videos those of images hold.
        """
        size = self.video_settings.get("size", {})
        if not {"shortest_edge", "longest_edge"} <= set(size):
            return {}
        share = frames if self._timed else 1
        least, most = -(-size["shortest_edge"] // share), size["longest_edge"] // share
        return {"size": {"shortest_edge": least, "longest_edge": most}}

    def runs(self, arrangement: Arrangement) -> list[int]:
        return [view.patches for view in arrangement.views] if self._timed else super().runs(arrangement)

    def written(self, arrangement: Arrangement, tokenizer: Any) -> str:  # noqa: ANN401 (a class per family)
        if not self._timed:
            return ""
        frame = f"<|vision_start|>{self.mark(tokenizer)}<|vision_end|>"  # inside those of the chat template
        return "".join(f"<{time:.1f} seconds>{frame}" for time in arrangement.seconds)
