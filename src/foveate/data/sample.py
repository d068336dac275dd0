"""Questions about images, or about text alone, in one format for all data sets."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Bool
from PIL.Image import Image

from foveate.core.errors import DataError
from foveate.data.clip import Clip
from foveate.data.names import FRAMES
from foveate.data.rgb import as_rgb, upright_size
from foveate.data.video import VideoSource

T = TypeVar("T")
Scoring = Literal[
    "exact",
    "set_f1",
    "vqa",
    "textvqa",
    "gqa",
    "pope",
    "yes_no",
    "scienceqa",
    "seed",
    "mmbench",
    "mentions",
    "box",
    "f1",
    "choice",
    "anls",
    "relaxed",
    "ocr",
    "ocr_formula",
    "letter",
    "mmstar",
    "mathvista",
    "mmmu",
    "mmmu_open",
    "yes_or_no",
    "chair",
    "videomme",
    "mvbench",
    "longvideobench",
    "mlvu",
    "egoschema",
    "none",
]
Form = Literal[
    "plain",
    "short",
    "word",
    "read",
    "unanswerable",
    "yes_no",
    "yes_no_bare",
    "letter",
    "letter_context",
    "letter_cn",
    "letter_stated",
    "letter_math",
    "letter_mmmu",
    "letter_direct",
    "letter_video",
    "letter_subtitles",
    "letter_mvbench",
    "letter_mlvu",
    "short_mmmu",
    "free",
    "box",
]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom as shares of the image's width and height."""
PLACEHOLDER = "<image>"
"""The text that stands for an image in a question about several images."""


class ImageSource(ABC):
    """An image that is opened on demand."""

    @abstractmethod
    def open(self) -> Image:
        """Returns the upright RGB image that `data.rgb.as_rgb` gives.

        Raises:
            DataError: The image cannot be decoded.
        """

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of what `open` returns; most formats are not decoded for it.

        Raises:
            DataError: This is not an image.
        """

    @abstractmethod
    def content(self) -> bytes:
        """Returns bytes that identify the image."""


@dataclass(frozen=True, eq=False)
class InMemoryImage(ImageSource):
    """An image in memory."""

    image: Image

    def open(self) -> Image:
        return as_rgb(self.image)

    @property
    def size(self) -> tuple[int, int]:
        return upright_size(self.image)

    def content(self) -> bytes:
        return self.image.tobytes()


@dataclass(frozen=True, eq=False)
class FrameOfVideo(ImageSource):
    """A frame of a video as an image.

    Attributes:
        video: The video.
        frames: Number of frames that are shown of it.
        number: Number of this one among them.
    """

    video: VideoSource
    frames: int
    number: int

    def open(self) -> Image:
        return _opened(self.video, self.frames).frames[self.number]

    @property
    def size(self) -> tuple[int, int]:
        return self.video.size

    def content(self) -> bytes:
        return self.video.content() + self.frames.to_bytes(4) + self.number.to_bytes(4)


@lru_cache(maxsize=2)  # the frames of a question are opened one after the other
def _opened(video: VideoSource, frames: int) -> Clip:
    return video.open(frames)


class Evidence(ABC):
    """The pixels that are needed to answer a question."""

    @property
    @abstractmethod
    def known(self) -> bool:
        """Returns whether the evidence is known."""

    @abstractmethod
    def masks(self, source: ImageSource) -> Bool[np.ndarray, "thing height width"]:
        """Returns one mask per thing, in the pixels of the image."""

    def frame_masks(self, frames: int) -> Bool[np.ndarray, "thing frame height width"]:
        """Returns one mask per thing and frame of a video, in the pixels of the frames; none if it is not known.

        Args:
            frames: Number of frames that are shown of the video, see `data.video.sampled`.
        """
        return np.zeros((0, frames, 1, 1), bool)

    @abstractmethod
    def content(self) -> bytes:
        """Returns bytes that identify the evidence."""


@dataclass(frozen=True, eq=False)
class Masks(Evidence):
    """Evidence as masks in memory."""

    things: Bool[np.ndarray, "thing height width"]

    @property
    def known(self) -> bool:
        return len(self.things) > 0

    def masks(self, source: ImageSource) -> np.ndarray:
        return self.things

    def content(self) -> bytes:
        return self.things.tobytes()


@dataclass(frozen=True)
class Boxes(Evidence):
    """Evidence as boxes, converted to masks on demand; without boxes the evidence is unknown."""

    boxes: tuple[Box, ...] = ()

    @property
    def known(self) -> bool:
        return bool(self.boxes)

    def masks(self, source: ImageSource) -> np.ndarray:
        if not self.boxes:
            return np.zeros((0, 1, 1), bool)
        width, height = source.size
        x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
        return np.stack(
            [
                ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
                for left, top, right, bottom in self.boxes
            ]
        )

    def content(self) -> bytes:
        return repr(self.boxes).encode()


@dataclass(frozen=True, eq=False)
class VQASample:
    """A question with its reference answers, about images, a video or text alone.

    Attributes:
        id: Unique name within the data set and split.
        image_id: Name that all questions about the image or video, or about the same images in the same order, share;
            unique for a text-only question.
        sources: The images, opened on demand; none for a text-only question or one about a video.
        kind: Question type.
        question: The question, without any prompt around it. In a question about several images, `PLACEHOLDER` stands
            for each in turn; without any, all images stand before the question.
        references: Answers that count as correct.
        scoring: Rule that compares an answer with the references, see `metrics.answers.score_of`; "none" if the split
            has no answers.
        things: The evidence: the pixels that the question needs.
        form: Kind of answer that the prompt requests; `data.prompts` has the wording.
        options: Options of a multiple-choice question, in the order of their letters.
        hint: Additional text for the prompt.
        problem: Reason why the question cannot be used; empty if it can.
        video: The video, opened on demand; None for a question about images or text.
        frames: Number of frames that are shown of the video.
    """

    id: str
    image_id: str
    sources: tuple[ImageSource, ...]
    kind: str
    question: str
    references: tuple[str, ...]
    scoring: Scoring
    things: Evidence = Boxes()
    form: Form = "plain"
    options: tuple[str, ...] = ()
    hint: str = ""
    problem: str = ""
    video: VideoSource | None = None
    frames: int = FRAMES

    @property
    def several(self) -> bool:
        """True if the question is about several images."""
        return len(self.sources) > 1

    @property
    def single(self) -> bool:
        """True if the question is about one image or one video, which is encoded once for all questions about it."""
        return len(self.sources) == 1 or self.video is not None

    @property
    def seen(self) -> bool:
        """True if the question is about images or a video, not about text alone."""
        return bool(self.sources) or self.video is not None

    @property
    def clip(self) -> Clip:
        """Those frames of the video that are shown.

        Raises:
            DataError: The question has no video, or it cannot be decoded; the message names the question.
        """
        if self.video is None:
            raise DataError(f"question {self.id!r} has no video: only questions about a video can be used here")
        try:
            return self.video.open(self.frames)
        except DataError as error:
            raise DataError(f"question {self.id!r}: {error}") from error

    @property
    def with_frames_as_images(self) -> "VQASample":
        """The same question about the frames of its video as images, in their order; the evidence is left out.

        A video that cannot be decoded becomes a problem of the question.
        """
        if self.video is None:
            return self
        try:
            count = len(_opened(self.video, self.frames).frames)
        except DataError as error:
            return replace(self, problem=self.problem or str(error))
        frames = tuple(FrameOfVideo(self.video, self.frames, number) for number in range(count))
        return replace(self, sources=frames, video=None, things=Boxes())

    @property
    def image(self) -> Image:
        """The only image.

        Raises:
            DataError: The question has no image or several, or the image cannot be decoded; the message names the
                question.
        """
        if len(self.sources) != 1:
            count = len(self.sources) or "no"
            raise DataError(f"question {self.id!r} has {count} images: only questions about one image can be used here")
        return self.images[0]

    @property
    def images(self) -> list[Image]:
        """The images.

        Raises:
            DataError: An image cannot be decoded; the message names the question.
        """
        try:
            return [source.open() for source in self.sources]
        except DataError as error:
            raise DataError(f"question {self.id!r}: {error}") from error

    @property
    def evidence(self) -> Bool[np.ndarray, "thing height width"]:
        """One mask per needed thing, in the pixels of the image; none if the evidence is unknown."""
        return self.things.masks(self.sources[0]) if self.sources else np.zeros((0, 1, 1), bool)

    @property
    def frame_evidence(self) -> Bool[np.ndarray, "thing frame height width"]:
        """One mask per needed thing and shown frame of the video; no thing if the evidence is unknown."""
        return self.things.frame_masks(self.frames)


class LazyMapping(Mapping[str, T]):
    """A mapping from names to values that are computed from questions at each lookup.

    Args:
        samples: One question per name.
        compute: Function from a question to the value.
    """

    def __init__(self, samples: Mapping[str, VQASample], compute: Callable[[VQASample], T]) -> None:
        self.samples, self.compute = samples, compute

    def __getitem__(self, name: str) -> T:
        return self.compute(self.samples[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)


def first_of_images(samples: Sequence[VQASample]) -> dict[str, VQASample]:
    """Returns the first question about each image, by `image_id`; those about no image or several are left out."""
    first: dict[str, VQASample] = {}
    for sample in samples:
        if len(sample.sources) == 1:
            first.setdefault(sample.image_id, sample)
    return first


def first_of_media(samples: Sequence[VQASample]) -> dict[str, VQASample]:
    """Returns the first question about each image or video, by `image_id`; those about text or several are left out."""
    first: dict[str, VQASample] = {}
    for sample in samples:
        if sample.single:
            first.setdefault(sample.image_id, sample)
    return first


def media_of(samples: Sequence[VQASample]) -> LazyMapping[Image | Clip]:
    """Returns what questions about one image or one video see, by `image_id`, each opened at its lookup."""
    return LazyMapping(first_of_media(samples), lambda sample: sample.clip if sample.video else sample.image)
