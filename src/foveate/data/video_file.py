"""Videos in files, of which only the frames that are asked for are kept."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from foveate.core.errors import DataError, message_of, shown
from foveate.core.extras import missing_package
from foveate.data.clip import Clip
from foveate.data.rgb import as_rgb
from foveate.data.stored import FORMATS, opened
from foveate.data.video import VideoSource, sampled

_FRAME_ENDINGS = (*(f".{form.lower()}" for form in FORMATS), ".jpg", ".tif")


@dataclass(frozen=True)
class VideoFile(VideoSource):
    """A video in a file that PyAV reads.

    Frames are numbered in the order in which they are shown, whatever the frame rate, and their times are their
    timestamps from the first frame on. No more than one frame that is not returned is in memory at a time.

    Attributes:
        path: The file.
        name: Name of the video in errors.
    """

    path: Path
    name: str

    def open(self, frames: int) -> Clip:
        return _read_frames(self.path, self.name, frames)

    @property
    def size(self) -> tuple[int, int]:
        return _read_frames(self.path, self.name, 1).frames[0].size

    def content(self) -> bytes:
        return _digest(self.path, self.name)


@dataclass(frozen=True)
class FrameFolder(VideoSource):
    """A video as a folder of images, one per frame, in the order of their names.

    Attributes:
        path: The folder.
        name: Name of the video in errors.
        fps: Frames per second.
        start: Time of the first frame that counts in seconds.
        end: Time of the last frame that counts in seconds; None means that of the last image.
    """

    path: Path
    name: str
    fps: float
    start: float = 0.0
    end: float | None = None

    def open(self, frames: int) -> Clip:
        files = self._files
        numbers = sampled(len(files), frames)
        return Clip([self._frame(files[number]) for number in numbers], [number / self.fps for number in numbers])

    @property
    def size(self) -> tuple[int, int]:
        return self._frame(self._files[0]).size

    def content(self) -> bytes:
        return b"".join(_digest(file, self.name) for file in self._files) + repr(self.fps).encode()

    @property
    def _files(self) -> list[Path]:
        """The images between start and end.

        Raises:
            DataError: There are none.
        """
        files = sorted(file for file in self.path.iterdir() if file.suffix.lower() in _FRAME_ENDINGS)
        last = len(files) - 1 if self.end is None else round(self.end * self.fps)
        if not (chosen := files[round(self.start * self.fps) : last + 1]):
            raise DataError(
                f"video {shown(self.name)}: its folder has {len(files)} images, and none between {self.start} s and "
                f"{self.end} s at {self.fps} frames per second: unpack it again"
            )
        return chosen

    def _frame(self, file: Path) -> Image:
        label = f"frame {file.name} of video {shown(self.name)}"
        try:
            with opened(file.read_bytes(), label) as image:
                return as_rgb(image, label)
        except OSError as error:
            raise DataError(f"{label} cannot be read: {message_of(error)}") from error


def _read_frames(path: Path, name: str, count: int) -> Clip:
    """Returns what `decoding.read_frames` does.

    Raises:
        MissingPackage: PyAV is not installed.
    """
    try:
        from foveate.data.decoding import read_frames  # PyAV belongs to the extra `video`
    except ModuleNotFoundError as error:
        if missing := missing_package(error):
            raise missing from error
        raise
    return read_frames(path, name, count)


def _digest(path: Path, name: str) -> bytes:
    """Returns a hash of a file, which is never in memory as a whole."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"video {shown(name)} cannot be read: {message_of(error)}") from error
