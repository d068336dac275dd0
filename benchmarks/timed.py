"""The baseline of stock calls, timed."""

from collections.abc import Callable, Sequence

from PIL.Image import Image

from benchmarks.one_by_one import OneByOne
from foveate.core.needs import ClsRows
from foveate.methods.fitting import at_budget
from foveate.models.loading.load import LoadedModel
from foveate.profiling.clock import Clock


def one_by_one(
    loaded: LoadedModel, new_tokens: int, part: str
) -> Callable[[Sequence[tuple[Image, str]], int, Clock], None] | None:
    """Returns a function that answers questions one at a time, with patches chosen by the layers of `vtc_cls`.

    Args:
        loaded: The model, of which another copy is loaded.
        new_tokens: Number of tokens of every answer.
        part: Name of the timed part.

    Returns:
        The function; None if the baseline does not support the model.
    """
    adapter = loaded.adapter
    if not (adapter.fixed_grid and adapter.tower.has_cls):
        return None
    baseline = OneByOne(str(loaded.model.name_or_path), new_tokens)
    baseline.model.to(loaded.model.device, loaded.model.dtype)
    baseline.model.generation_config.min_new_tokens = new_tokens
    needs = at_budget("vtc_cls", 0.5, adapter).needs
    layers = [layer for need in needs if isinstance(need, ClsRows) for layer in adapter.layers(need)]

    def answer(questions: Sequence[tuple[Image, str]], keep: int, clock: Clock) -> None:
        with clock.part(part):
            for image, question in questions:
                baseline.answer(image, question, layers, keep)

    return answer
