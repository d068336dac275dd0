"""Converts lmms-eval's requests to chat prompts with images, and its generation options to those of `generate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from foveate.core.errors import DataError
from foveate.models.loading.load import LoadedModel

PLACEHOLDER = "<image>"
_SAMPLING = ("temperature", "top_p", "top_k")
_SEARCH = ("num_beams", "repetition_penalty", "length_penalty", "no_repeat_ngram_size")
USED = (*_SAMPLING, *_SEARCH, "do_sample", "max_new_tokens", "max_gen_toks", "until")


@dataclass(frozen=True, eq=False)
class Request:
    """A chat prompt with its images.

    Attributes:
        prompt: The text of the prompt.
        images: The images in reading order.
        data: The parts of the text that come from the task.
        target: The tokens whose probability is requested, if any.
    """

    prompt: str
    images: Sequence[Image]
    data: Sequence[str] = ()
    target: Sequence[int] = ()

    @classmethod
    def of(cls, loaded: LoadedModel, context: str, visuals: Sequence[Any] | None, system: str) -> "Request":
        """Returns the prompt of a context with images at its `<image>` placeholders, or before it if it has none.

        Raises:
            DataError: A visual is not an image, or the number of placeholders differs from the number of images.
        """
        images = list(visuals or ())
        for visual in images:
            if not isinstance(visual, Image):
                raise DataError(
                    f"a {type(visual).__name__} as visual of the question {context[:60]!r}: expected images; videos "
                    "and sounds are not supported, choose tasks about images"
                )
        texts = context.split(PLACEHOLDER)
        if len(texts) == 1:
            return cls(loaded.chat_prompt([*[None] * len(images), context], system), images, (context,))
        if len(texts) - 1 != len(images):
            raise DataError(
                f"the question {context[:60]!r} has {len(texts) - 1} placeholders ({PLACEHOLDER}) for {len(images)} "
                "images: expected one per image, or none"
            )
        content = [part for text in texts for part in (None, text.strip()) if part != ""][1:]
        return cls(loaded.chat_prompt(content, system), images, [part for part in content if part])


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
