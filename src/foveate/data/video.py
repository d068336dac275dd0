"""Videos that are opened on demand, as some of their frames."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from foveate.data.clip import Clip
from foveate.data.rgb import as_rgb


class VideoSource(ABC):
    """A video that is opened on demand."""

    @abstractmethod
    def open(self, frames: int) -> Clip:
        """Returns frames of the video, upright and in RGB: those of `sampled` numbers.

        Raises:
            DataError: The video cannot be decoded.
        """

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Width and height of the upright frames in pixels.

        Raises:
            DataError: This is not a video.
        """

    @abstractmethod
    def content(self) -> bytes:
        """Returns bytes that identify the video."""


@dataclass(frozen=True, eq=False)
class InMemoryVideo(VideoSource):
    """A video in memory.

    Attributes:
        clip: All its frames.
    """

    clip: Clip

    def open(self, frames: int) -> Clip:
        numbers = sampled(len(self.clip.frames), frames)
        return Clip([as_rgb(self.clip.frames[n]) for n in numbers], [self.clip.seconds[n] for n in numbers])

    @property
    def size(self) -> tuple[int, int]:
        return self.clip.frames[0].size

    def content(self) -> bytes:
        return b"".join(frame.tobytes() for frame in self.clip.frames) + np.asarray(self.clip.seconds, float).tobytes()


def sampled(count: int, frames: int) -> list[int]:
    """Returns the numbers of frames at equal distances from the first to the last, as LLaVA-OneVision samples videos.

    Args:
        count: Number of frames of the video.
        frames: Number of frames to return; a video with fewer returns all of its own.
    """
    return list(range(count)) if count <= frames else np.linspace(0, count - 1, frames).astype(int).tolist()
