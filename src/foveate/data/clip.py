"""Frames of a video."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from foveate.core.errors import DataError


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a video, in their order.

    Attributes:
        frames: The frames, RGB, upright and of one size.
        seconds: The time of each frame in the video.

    Raises:
        DataError: There is no frame, frames have different sizes, or times are missing or do not ascend.
    """

    frames: Sequence[Image]
    seconds: Sequence[float]

    def __post_init__(self) -> None:
        sizes = sorted({frame.size for frame in self.frames})
        if len(sizes) != 1:
            raise DataError(f"frames of sizes {sizes}: expected at least one frame, and all of one size")
        if len(self.seconds) != len(self.frames):
            raise DataError(f"{len(self.seconds)} times for {len(self.frames)} frames: expected one for each frame")
        if any(later < earlier for earlier, later in zip(self.seconds, self.seconds[1:], strict=False)):
            raise DataError(f"times {list(self.seconds)} of frames: expected ascending ones, in seconds")

    @property
    def fps(self) -> float:
        """Frames per second on average; 1 of a single frame or of frames of one moment."""
        spread = self.seconds[-1] - self.seconds[0]
        return (len(self.frames) - 1) / spread if spread > 0 else 1.0
