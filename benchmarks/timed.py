"""The baseline on the clock."""

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
    """Answers questions one at a time, keeping so many patches by the layers of `vtc_cls`.

    Args:
        loaded: The model, of which another copy is loaded.
        new_tokens: Of every answer, whatever they are.
        part: Under which name the clock is told.

    Returns:
        What answers images with a question each; None where the baseline is not written for the model.
    """
    adapter = loaded.adapter
    if not (adapter.fixed_grid and adapter.tower.has_cls):
        return None
    baseline = OneByOne(str(loaded.model.name_or_path), new_tokens)
    baseline.model.to(loaded.model.device, loaded.model.dtype)
    baseline.model.generation_config.min_new_tokens = new_tokens
    needs = at_budget("vtc_cls", 0.5, adapter).needs
    layers = [layer for need in needs if isinstance(need, ClsRows) for layer in adapter.layers(need)]

    def ask(asked: Sequence[tuple[Image, str]], keep: int, clock: Clock) -> None:
        with clock.part(part):
            for image, question in asked:
                baseline.answer(image, question, layers, keep)

    return ask
