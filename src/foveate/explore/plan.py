"""The contents of the page, as its command line gives them; importing this module is fast."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from foveate.core.errors import DataError, OptionError, shown
from foveate.data.names import FRAMES, SCENES, check_limit, parsed
from foveate.explore.choice import Choice
from foveate.models.loading.names import AUTO, REFERENCE, check_model

MOST = 4
"""Number of methods side by side."""
USUAL = tuple(map(Choice, ("vtc_cls", "divprune", "fastv", "random")))
USUAL_OF_VIDEOS = tuple(map(Choice, ("vidcom2", "evs", "fastv", "random_per_frame")))


def check_port(port: int | None) -> None:
    """Checks the port of a page; None means any.

    Raises:
        OptionError: There is no such port.
    """
    if port is not None and not 1 <= port <= 65535:
        raise OptionError(f"port {port}: expected 1 to 65535")


@dataclass(frozen=True)
class Plan:
    """Model, data, image or video, question and methods of a page.

    Attributes:
        methods: The methods; none means `USUAL`, or `USUAL_OF_VIDEOS` if the first question is about a video.
        image: The file of an image or a video; None means those of the data's question.
        question: The question; None means that of the data.
        index: Number of the data's question.
        model: See `load`.
        companion: See `load`.
        data: Data set.
        split: Its split; None means the usual one.
        limit: Number of questions.
        seed: Seed of generated data.
        frames: Number of frames that are shown of a video.
        new_tokens: Longest answer.
        device: Device of the model.
        dtype: Type of weights and activations.
    """

    methods: tuple[Choice, ...]
    image: Path | None = None
    question: str | None = None
    index: int = 0
    model: str = REFERENCE
    companion: str | None = None
    data: str = SCENES
    split: str | None = None
    limit: int = 100
    seed: int = 0
    frames: int = FRAMES
    new_tokens: int = 32
    device: str = AUTO
    dtype: str = AUTO

    def check(self) -> None:
        """Checks the values that need neither model nor data.

        Raises:
            OptionError: There are too many methods, or a number is out of range.
            DataError: There is no such file, or the data set is unknown.
            UnsupportedModel: There is no such folder.
        """
        if len(self.methods) > MOST:
            raise OptionError(f"{len(self.methods)} methods: expected at most {MOST}")
        for name, number in (("new_tokens", self.new_tokens), ("frames", self.frames)):
            if number < 1:
                raise OptionError(f"{name}={number}: expected at least 1")
        check_model(self.model)
        parsed(self.data)
        check_limit(self.limit)
        if not 0 <= self.index < self.limit:
            raise OptionError(f"index={self.index}: expected 0 to {self.limit - 1}, one less than --limit")
        if self.image is not None and not self.image.is_file():
            raise DataError(
                f"file {shown(str(self.image))}: there is no such file; give the path of an image or a video"
            )

    @property
    def command(self) -> str:
        """The command that shows this page."""
        image = [] if self.image is None else [f"{'./' if str(self.image).startswith('-') else ''}{self.image}"]
        words = ["foveate", "explore", *image, *self._options()]
        return shlex.join(words)

    def _options(self) -> Iterator[str]:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "methods":
                yield from ("--methods", *map(str, value))
            elif field.name != "image" and value != field.default:
                name, text = f"--{field.name.replace('_', '-')}", str(value)
                yield from ([f"{name}={text}"] if text.startswith("-") else [name, text])  # no option of that name
