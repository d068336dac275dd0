"""Videos in files, of which only the frames that are asked for are kept."""

import hashlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from PIL.Image import Image

from foveate.core.errors import DataError, MissingPackage, message_of, shown
from foveate.core.extras import missing_package
from foveate.data.clip import Clip
from foveate.data.rgb import as_rgb
from foveate.data.stored import FORMATS, opened
from foveate.data.video import VideoSource, sampled

_PYAV = 18  # first major version of PyAV that is safe for files from anywhere
_ENDINGS = tuple(f".{name}" for name in "mp4 m4v mov mkv webm avi mpg mpeg ts flv wmv ogv".split())
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
        return _decoding().read_frames(self.path, self.name, frames)

    @property
    def size(self) -> tuple[int, int]:
        return _decoding().read_frames(self.path, self.name, 1).frames[0].size

    @property
    def last(self) -> float:
        """Time of the last frame in seconds, from the length and the frame rate that the file declares.

        Raises:
            DataError: This is not a video, or it does not declare its length.
        """
        return _decoding().read_last(self.path, self.name)

    def content(self) -> bytes:
        return _digest(self.path, self.name)


@dataclass(frozen=True)
class FrameFolder(VideoSource):
    """A video as a folder of images, one per frame, in the order of their names.

    Attributes:
        path: The folder.
        name: Name of the video in errors.
        fps: Frames per second.
    """

    path: Path
    name: str
    fps: float

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
        """The images.

        Raises:
            DataError: There are none.
        """
        if files := sorted(file for file in self.path.iterdir() if file.suffix.lower() in _FRAME_ENDINGS):
            return files
        raise DataError(f"video {shown(self.name)}: its folder holds no images of frames: unpack it again")

    def _frame(self, file: Path) -> Image:
        label = f"frame {file.name} of video {shown(self.name)}"
        try:
            with opened(file.read_bytes(), label) as image:
                return as_rgb(image, label)
        except OSError as error:
            raise DataError(f"{label} cannot be read: {message_of(error)}") from error


def is_video(path: Path) -> bool:
    """Returns whether a file that may be an image is a video, by the ending of its name; a GIF is an image."""
    return path.suffix.lower() in _ENDINGS


def _decoding() -> ModuleType:
    """Returns the module that decodes files, whose package belongs to the extra `video`.

    Raises:
        MissingPackage: PyAV is not installed, or so old that a damaged file corrupts memory.
    """
    try:
        if int((found := import_module("av").__version__).partition(".")[0]) < _PYAV:
            raise MissingPackage(
                f"av {found} corrupts memory on damaged files: install {_PYAV} or later, pip install 'av>={_PYAV}'; "
                "after lmms-eval with its requirements, which ask for an older one, pip install --no-deps"
            )
        return import_module("foveate.data.decoding")
    except ModuleNotFoundError as error:
        if missing := missing_package(error):
            raise missing from error
        raise


def _digest(path: Path, name: str) -> bytes:
    """Returns a hash of a file, which is never in memory as a whole."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"video {shown(name)} cannot be read: {message_of(error)}") from error
