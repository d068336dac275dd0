"""Images and videos as tasks of lmms-eval give them."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL.Image import Image, fromarray

from foveate.core.errors import DataError
from foveate.data.clip import Clip
from foveate.data.video import sampled
from foveate.data.video_file import VideoFile, is_video


@runtime_checkable
class Reader(Protocol):
    """A video that decord has opened."""

    def __len__(self) -> int: ...

    def get_avg_fps(self) -> float:
        """Returns the frames per second."""
        ...

    def get_batch(self, indices: list[int]) -> Any:  # noqa: ANN401 (decord's array)
        """Returns frames, (frame, height, width, 3) bytes."""
        ...


def opened(visual: Any, frames: int, question: str) -> Image | Clip:  # noqa: ANN401 (as the task has it)
    """Returns an image, or so many frames of a video.

    Args:
        visual: An image, the path of a file of a video, or a video that decord has opened.
        frames: Number of frames that are shown of a video.
        question: Name of the question in errors.

    Raises:
        DataError: It is neither, or the video cannot be decoded.
        MissingPackage: It is the path of a video, and PyAV is not installed or too old.
    """
    if isinstance(visual, Image):
        return visual
    if isinstance(visual, str | Path) and is_video(Path(visual)):
        try:
            return _clip(Path(visual), frames)
        except DataError as error:
            raise DataError(f"{question}: {error}") from error
    if isinstance(visual, Reader):
        numbers, fps = sampled(len(visual), frames), visual.get_avg_fps()
        pixels = visual.get_batch(numbers).asnumpy()
        return Clip([fromarray(frame) for frame in pixels], [number / fps for number in numbers])
    raise DataError(
        f"a {type(visual).__name__} as visual of {question}: expected images or paths of videos; sounds are not "
        "supported"
    )


@lru_cache(maxsize=2)  # the choices of a question are asked one after the other
def _clip(path: Path, frames: int) -> Clip:
    return VideoFile(path, path.name).open(frames)
