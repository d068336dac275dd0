"""Clips as data: videos and evidence that are drawn when they are opened."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from foveate.data.clip import Clip
from foveate.data.sample import Evidence, ImageSource, VQASample
from foveate.data.scenes.moving import FRAMES, STEP_SECONDS, MovingScene, make_moving_scene
from foveate.data.scenes.moving_questions import CLIP_QUESTIONS, make_clip_question
from foveate.data.scenes.scene import Split, stream
from foveate.data.scenes.tiles import PATCH
from foveate.data.video import VideoSource, sampled


@dataclass(frozen=True)
class SceneVideo(VideoSource):
    """A moving scene as a video.

    Attributes:
        split, index, seed, grid: Those of `make_moving_scene`.
    """

    split: Split
    index: int
    seed: int
    grid: int

    @property
    def scene(self) -> MovingScene:
        """The moving scene."""
        return _scene(self)

    def open(self, frames: int) -> Clip:
        numbers = sampled(FRAMES, frames)
        pixels = self.scene.pixels()
        return Clip([Image.fromarray(pixels[n]) for n in numbers], [n * STEP_SECONDS for n in numbers])

    @property
    def size(self) -> tuple[int, int]:
        return self.grid * PATCH, self.grid * PATCH

    def content(self) -> bytes:
        return self.scene.pixels().tobytes()


@lru_cache(maxsize=8)  # questions about a clip follow each other
def _scene(video: SceneVideo) -> MovingScene:
    return make_moving_scene(video.split, video.index, video.seed, video.grid)


@dataclass(frozen=True)
class TrackMasks(Evidence):
    """Evidence in a moving scene.

    Attributes:
        video: The scene.
        needed: Numbers of tracks, each with the frames in which the question needs it.
    """

    video: SceneVideo
    needed: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def known(self) -> bool:
        return True

    def masks(self, source: ImageSource) -> np.ndarray:
        return np.zeros((0, 1, 1), bool)

    def frame_masks(self, frames: int) -> np.ndarray:
        scene = self.video.scene
        masks = np.stack([scene.mask(scene.tracks[track]) for track, _ in self.needed])
        for mask, (_, shown) in zip(masks, self.needed, strict=True):
            mask[[frame for frame in range(FRAMES) if frame not in shown]] = False
        return masks[:, sampled(FRAMES, frames)]

    def content(self) -> bytes:
        return np.packbits(self.frame_masks(FRAMES)).tobytes()


def clip_samples(split: Split, index: int, seed: int, grid: int) -> Iterator[VQASample]:
    """Yields half of the kinds of questions about a clip, so that few questions see many clips."""
    video, rng = SceneVideo(split, index, seed, grid), stream(split, index, seed, 3)
    tracks = video.scene.tracks
    for kind in list(CLIP_QUESTIONS)[index % 2 :: 2]:
        question = make_clip_question(kind, video.scene, rng)
        yield VQASample(
            id=f"{split}-{index:05d}-{kind}",
            image_id=f"{split}-{index:05d}",
            sources=(),
            kind=kind,
            question=question.text,
            references=(question.answer,),
            scoring="exact",
            things=TrackMasks(video, tuple((tracks.index(track), frames) for track, frames in question.needed)),
            video=video,
        )
