"""One question about one image, or about text alone, in the form that every data set is brought into."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Bool
from PIL.Image import Image

from foveate.core.errors import DataError
from foveate.data.rgb import as_rgb, upright_size

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
    "none",
]
Form = Literal["plain", "short", "unanswerable", "yes_no", "letter", "letter_context", "letter_cn", "free", "box"]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom as shares of the image's width and height."""


class ImageSource(ABC):
    """An image that is opened when it is looked at."""

    @abstractmethod
    def open(self) -> Image:
        """Returns the image as `data.rgb.as_rgb` does: upright, in red, green and blue.

        Raises:
            DataError: It cannot be decoded.
        """

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of what `open` returns, for which most formats need not be decoded.

        Raises:
            DataError: It is no image.
        """

    @abstractmethod
    def content(self) -> bytes:
        """What identifies it."""


@dataclass(frozen=True, eq=False)
class Drawn(ImageSource):
    """An image in memory."""

    image: Image

    def open(self) -> Image:
        return as_rgb(self.image)

    @property
    def size(self) -> tuple[int, int]:
        return upright_size(self.image)

    def content(self) -> bytes:
        return self.image.tobytes()


class Evidence(ABC):
    """What must be seen to answer."""

    @property
    @abstractmethod
    def known(self) -> bool:
        """Whether anything is."""

    @abstractmethod
    def masks(self, source: ImageSource) -> Bool[np.ndarray, "thing height width"]:
        """One mask in the image's pixels for each thing."""

    @abstractmethod
    def content(self) -> bytes:
        """What identifies it."""


@dataclass(frozen=True, eq=False)
class Masks(Evidence):
    """Masks in memory."""

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
    """Boxes, which become masks when they are asked for; no boxes mean that the evidence is unknown."""

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
    """A question with its reference answers.

    Attributes:
        id: Unique in its data set and split.
        image_id: Shared by all questions about the image; of a text-only question its own.
        source: The image, opened when it is looked at; None for a text-only question.
        kind: Question type.
        question: The question, without any prompt around it.
        references: Answers that count as right.
        scoring: How an answer is compared with them, see `metrics.answers.score_of`; "none" where the split has no
            answers.
        things: What must be seen.
        form: What kind of answer is asked for; `data.prompts` puts that into words.
        options: To choose from, in the order of their letters.
        hint: What is said beside the question.
        problem: Why the question cannot be asked; empty if it can.
    """

    id: str
    image_id: str
    source: ImageSource | None
    kind: str
    question: str
    references: tuple[str, ...]
    scoring: Scoring
    things: Evidence = Boxes()
    form: Form = "plain"
    options: tuple[str, ...] = ()
    hint: str = ""
    problem: str = ""

    @property
    def image(self) -> Image:
        """The image.

        Raises:
            DataError: There is none, or it cannot be decoded; the message names the question.
        """
        if self.source is None:
            raise DataError(f"question {self.id!r} has no image: only questions about images can be used here")
        try:
            return self.source.open()
        except DataError as error:
            raise DataError(f"question {self.id!r}: {error}") from error

    @property
    def evidence(self) -> Bool[np.ndarray, "thing height width"]:
        """One mask in the image's pixels for each thing that must be seen; none when unknown."""
        return np.zeros((0, 1, 1), bool) if self.source is None else self.things.masks(self.source)


class Lazily(Mapping[str, T]):
    """A mapping from names to what is made of their questions when it is looked up.

    Args:
        samples: By name.
        look: What to make of one.
    """

    def __init__(self, samples: Mapping[str, VQASample], look: Callable[[VQASample], T]) -> None:
        self.samples, self.look = samples, look

    def __getitem__(self, name: str) -> T:
        return self.look(self.samples[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)


def first_of_images(samples: Sequence[VQASample]) -> dict[str, VQASample]:
    """Returns the first question about each image, by `image_id`; text-only questions are left out."""
    first: dict[str, VQASample] = {}
    for sample in samples:
        if sample.source is not None:
            first.setdefault(sample.image_id, sample)
    return first


def images_of(samples: Sequence[VQASample]) -> Lazily[Image]:
    """Returns the images of questions by `image_id`, each opened when it is looked up."""
    return Lazily(first_of_images(samples), lambda sample: sample.image)
