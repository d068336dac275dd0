"""From lmms-eval's requests to chat prompts with images, and from its generation options to those of `generate`."""

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
    """A chat prompt.

    Attributes:
        written: Its text.
        images: In reading order.
        data: The parts of the text that come from the task.
        target: The tokens of which the probability is wanted, if any.
    """

    written: str
    images: Sequence[Image]
    data: Sequence[str] = ()
    target: Sequence[int] = ()

    @classmethod
    def of(cls, loaded: LoadedModel, context: str, visuals: Sequence[Any] | None, system: str) -> "Request":
        """The prompt of a context with images, which stand at its `<image>`, or before it where it has none.

        Raises:
            DataError: Something is no image, or there are not as many as places for them.
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
            return cls(loaded.written([*[None] * len(images), context], system), images, (context,))
        if len(texts) - 1 != len(images):
            raise DataError(
                f"the question {context[:60]!r} has {len(texts) - 1} places ({PLACEHOLDER}) for {len(images)} images"
            )
        content = [part for text in texts for part in (None, text.strip()) if part != ""][1:]
        return cls(loaded.written(content, system), images, [part for part in content if part])


def decoding(asked: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Options of `generate`: greedy, unless the task gives a temperature.

    Args:
        asked: A task's `generation_kwargs`.
        limit: Longest answer where it says none.
    """
    temperature = asked.get("temperature")
    options = {name: asked[name] for name in _SEARCH if asked.get(name) is not None}
    options["max_new_tokens"] = asked.get("max_new_tokens", asked.get("max_gen_toks", limit))
    if temperature == 0 or not asked.get("do_sample", temperature is not None):
        return options | {"do_sample": False} | dict.fromkeys(_SAMPLING)
    return options | {"do_sample": True} | {name: asked[name] for name in _SAMPLING if asked.get(name) is not None}


def until(answer: str, stops: str | Sequence[str] | None) -> str:
    r"""The answer before the first of some texts.

    "\n\n" does not count: lmms-eval adds it to every task, to end what follows examples in the prompt.
    """
    for stop in [stops] if isinstance(stops, str) else stops or ():
        if stop and stop != "\n\n":
            answer = answer.split(stop)[0]
    return answer.strip()
