"""Converts lmms-eval's requests to chat prompts with images and videos, and its options to those of `generate`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from foveate.core.errors import DataError, UnsupportedModel
from foveate.data.clip import Clip
from foveate.lmms_eval.visuals import opened
from foveate.models.loading.load import LoadedModel
from foveate.models.loading.names import VIDEO_FAMILIES

_PLACEHOLDERS = ("<image>", "<video>")
_SAMPLING = ("temperature", "top_p", "top_k")
_SEARCH = ("num_beams", "repetition_penalty", "length_penalty", "no_repeat_ngram_size")
USED = (*_SAMPLING, *_SEARCH, "do_sample", "max_new_tokens", "max_gen_toks", "until")


@dataclass(frozen=True, eq=False)
class Request:
    """A chat prompt with its images and videos.

    Attributes:
        prompt: The text of the prompt.
        images: The images in reading order.
        videos: The videos in reading order.
        data: The parts of the text that come from the task.
        target: The tokens whose probability is requested, if any.
    """

    prompt: str
    images: Sequence[Image]
    videos: Sequence[Clip] = ()
    data: Sequence[str] = ()
    target: Sequence[int] = ()

    @classmethod
    def of(cls, loaded: LoadedModel, context: str, visuals: Sequence[Any], system: str, frames: int) -> "Request":
        """Returns the prompt of a context with images and videos at its placeholders, or before it if it has none.

        Placeholders are `<image>` and, in a context with videos, `<video>`; each stands for the next visual.

        Args:
            loaded: The model.
            context: The text.
            visuals: The images and videos in reading order; see `visuals.opened`.
            system: The system prompt; empty means that of the checkpoint.
            frames: Number of frames that are shown of each video.

        Raises:
            DataError: A visual is neither an image nor a video, a video cannot be decoded, or the number of
                placeholders differs from the number of visuals.
            UnsupportedModel: There is a video, and the model takes none.
        """
        question = f"the question {context[:60]!r}"
        seen = [opened(visual, frames, question) for visual in visuals]
        videos = [one for one in seen if isinstance(one, Clip)]
        images = [one for one in seen if not isinstance(one, Clip)]
        if videos and loaded.adapter.kind("video") is None:
            raise UnsupportedModel(
                f"{question} is about a video, and {type(loaded.model).__name__} takes images: choose tasks about "
                f"images, or a model of {VIDEO_FAMILIES}"
            )
        texts = re.split("|".join(_PLACEHOLDERS if videos else _PLACEHOLDERS[:1]), context)
        if len(texts) > 1 and len(texts) - 1 != len(seen):
            raise DataError(
                f"{question} has {len(texts) - 1} placeholders ({', '.join(_PLACEHOLDERS)}) for {len(images)} images "
                f"and {len(videos)} videos: expected one for each, or none"
            )
        content: list[Image | Clip | str] = [*seen, context]
        if len(texts) > 1:
            first, *others = (text.strip() for text in texts)
            content = [first, *(part for pair in zip(seen, others, strict=True) for part in pair)]
            content = [part for part in content if part != ""]
        data = [part for part in content if isinstance(part, str)]
        return cls(_chat_prompt(loaded, content, system), images, videos, data)

    @property
    def shape(self) -> tuple[int, tuple[int, ...]]:
        """The number of images and the frames of each video, which are the same in all prompts of a batch."""
        return len(self.images), tuple(len(clip.frames) for clip in self.videos)


def _chat_prompt(loaded: LoadedModel, content: Sequence[Image | Clip | str], system: str) -> str:
    """Returns the chat prompt of one turn, by the checkpoint's chat template."""
    parts = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "video" if isinstance(part, Clip) else "image"}
        for part in content
    ]
    turns = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return loaded.conversation([*turns, {"role": "user", "content": parts}])


def generate_options(task_options: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Returns options of `generate` for a task: greedy unless the task sets a temperature.

    Args:
        task_options: The task's `generation_kwargs`.
        limit: Longest answer if the task sets no limit.
    """
    temperature = task_options.get("temperature")
    options = {name: task_options[name] for name in _SEARCH if task_options.get(name) is not None}
    options["max_new_tokens"] = task_options.get("max_new_tokens", task_options.get("max_gen_toks", limit))
    if temperature == 0 or not task_options.get("do_sample", temperature is not None):
        return options | {"do_sample": False} | dict.fromkeys(_SAMPLING)
    sampling = {name: task_options[name] for name in _SAMPLING if task_options.get(name) is not None}
    return options | {"do_sample": True} | sampling


def until(answer: str, stops: str | Sequence[str] | None) -> str:
    r"""Returns the answer up to the first of the stop texts.

    "\n\n" is ignored: lmms-eval adds it to every task, to end continuations of few-shot prompts.
    """
    for stop in [stops] if isinstance(stops, str) else stops or ():
        if stop and stop != "\n\n":
            answer = answer.split(stop)[0]
    return answer.strip()
