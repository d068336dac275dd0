"""The time of an answer by part, and its other costs: memory, cache, operations, tokens.

A batch of prompts with one image each runs through the passes that evaluations use, and questions share nothing:

    vision       the tower, including the recording of the attention rows that a method needs
    scoring      the method's other computations on images and questions, selecting and merging, also at a cut inside
                 the language model, and ordering tokens
    projector    from the tower's width to the language model's
    prefill      from embedding the prompt to the first token of the answer, including the recording of attention rows
    decode       all further tokens

The parts add up to the total. They follow "inputs", which converts images and words to tensors.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from foveate.compressors import Compressor
from foveate.compressors.base import checked_cuts, compressed_by
from foveate.core.arrangement import Arrangement
from foveate.core.compression import Decision
from foveate.core.contracts import AroundCut
from foveate.core.errors import FoveateError, LayerError, UnsupportedNeed
from foveate.core.progress import bar
from foveate.core.token_account import TokenAccount, account
from foveate.core.trace import Trace
from foveate.data.clip import Clip
from foveate.models.backbone.adapter import Adapter, ImageInputs
from foveate.models.backbone.grouping import group_by_shape, in_groups
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.decoder_passes import DecoderPasses
from foveate.models.runtime.generation import embedded
from foveate.models.runtime.images import LiveImages, Texts
from foveate.profiling.clock import Clock, peak_bytes
from foveate.profiling.flops import CONVENTIONS, operations, projector_macs, tower_macs
from foveate.profiling.shapes import ModelShape
from foveate.profiling.timing import check_length, check_sizes

INPUTS, PARTS = "inputs", ("vision", "scoring", "projector", "prefill", "decode")
_WARM_UPS = 2
_TYPICAL = 672  # pixels


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts with one image or video each, prepared for a model.

    Attributes:
        loaded: The model.
        inputs: The model inputs of the images or videos.
        arrangements: The arrangement of each image.
        texts: Prompts and questions.
    """

    loaded: LoadedModel
    inputs: ImageInputs
    arrangements: Sequence[Arrangement]
    texts: Texts

    @classmethod
    def of(cls, loaded: LoadedModel, images: Sequence[Image | Clip], questions: Sequence[str]) -> "Batch":
        """Prepares one question about each image or video."""
        inputs, arrangements = loaded.media_inputs(images)
        prompts = [loaded.prompt(question, image) for question, image in zip(questions, arrangements, strict=True)]
        tokens = [loaded.adapter.question(prompt, loaded.text_side.tail) for prompt in prompts]
        return cls(loaded, inputs, arrangements, Texts(prompts, tokens, questions))

    def images(self, rows: list[int]) -> LiveImages:
        """Returns the images of some rows, which have one arrangement."""
        inputs, one = self.adapter.chosen(self.inputs, rows, self.arrangements), self.arrangements[rows[0]]
        return LiveImages(self.adapter, inputs, one, lambda: self.texts.of(rows), self.loaded.companion)

    @property
    def adapter(self) -> Adapter:
        """The adapter of images, or that of videos."""
        return self.loaded.adapter.of(self.arrangements[0])


class BatchAnswers(NamedTuple):
    """The answers to one batch, with the tokens and the cache that they took.

    Attributes:
        tokens: (prompt, token) the answers.
        visual: Number of visual tokens of each prompt, by block.
        text: Number of other tokens of each prompt.
        kv_bytes: Size of the keys and values of all prompts after prefill, padding included.
    """

    tokens: Tensor
    visual: TokenAccount
    text: Tensor
    kv_bytes: int


class Footprint(NamedTuple):
    """The costs of a method other than time.

    Attributes:
        equivalent_tokens: Visual tokens averaged over the language model's blocks; this and the next three are means
            over prompts.
        given_tokens: Visual tokens that enter the first block.
        left_tokens: Visual tokens that enter the last block.
        text_tokens: All other tokens of the prompt.
        kv_bytes: Size of a prompt's keys and values, with padding to the longest prompt of the batch.
        peak_bytes: Peak memory of the batch above weights and inputs; None if it is unavailable.
        operations: Operations by name of `CONVENTIONS`, mean over prompts. The tower counts once and in full, also if a
            method shortens it or runs it twice.
    """

    equivalent_tokens: float
    given_tokens: float
    left_tokens: float
    text_tokens: float
    kv_bytes: float
    peak_bytes: int | None
    operations: Mapping[str, float]


@torch.inference_mode()
def answer_batch(batch: Batch, compressor: Compressor, new_tokens: int, clock: Clock) -> BatchAnswers:
    """Decodes greedy answers of a fixed length, beyond end tokens, so that all methods decode equally many tokens.

    Args:
        batch: The questions.
        compressor: The method.
        new_tokens: Number of tokens of every answer.
        clock: Measures the time of the parts.

    Raises:
        FoveateError: The model does not support the method.
    """
    adapter = batch.adapter
    cuts = [_TimedCut(cut, clock) for cut in checked_cuts(compressor)]
    parts = ((adapter, "encode", "vision"), (adapter, "reduced", "vision"), (adapter.projector, "forward", "projector"))
    with clock.part("scoring"), clock.listening(*parts):
        groups = group_by_shape(batch.arrangements)
        compressed = in_groups(
            partial(compressed_by, compressor, extra_needs=adapter.extra_needs), groups, batch.images
        )
    with clock.part("prefill"):
        states, layout = embedded(adapter, batch.texts.prompts, compressed, compressor.repack)
        blocks = DecoderPasses(adapter.decoder, layout, cuts, compressed)
        answer = [adapter.decoder.logits(blocks.prompt(states)[:, -1]).argmax(-1)]
    cached: Any = blocks.cache.layers  # models with linear attention, whose layers hold states, are not supported
    kv_bytes = sum(x.nbytes for layer in cached for x in (layer.keys, layer.values))
    with clock.part("decode"):
        embed = adapter.inner.get_input_embeddings()
        real = torch.ones_like(answer[0][:, None], dtype=torch.bool)
        for _ in range(new_tokens - 1):
            states = blocks.step(embed(answer[-1][:, None]), real)
            answer.append(adapter.decoder.logits(states[:, -1]).argmax(-1))
    visual = account(blocks.pruning.per_block)
    text = layout.following.new_tensor([len(p) - p.count(adapter.image_token) for p in map(list, batch.texts.prompts)])
    return BatchAnswers(torch.stack(answer, 1), visual, text, kv_bytes)


def footprint(batch: Batch, compressor: Compressor, new_tokens: int) -> Footprint:
    """Measures the costs of a method other than time, in separate passes.

    Raises:
        FoveateError: The model does not support the method.
    """
    adapter, device = batch.adapter, batch.loaded.model.device
    adapter.check(compressor.needs, compressor.cuts)
    projected: list[int] = []
    with adapter.projector.register_forward_hook(lambda _, args, out: projected.append(out.shape[:-1].numel())):
        answers = answer_batch(batch, compressor, new_tokens, Clock(device))
    peak = peak_bytes(lambda: answer_batch(batch, compressor, new_tokens, Clock(device)), device)
    shape, prompts = ModelShape.of(adapter.model.config.to_dict()), len(answers.text)
    vision_grids = [grid for image in batch.arrangements for grid in adapter.vision_grids(batch.inputs, image)]
    vision = (tower_macs(shape.tower, vision_grids) + projector_macs(shape.projector, sum(projected))) / prompts
    visual, text = answers.visual.per_block.double().cpu().numpy(), answers.text.double().cpu().numpy()
    counted = {n: float(np.mean(operations(visual, text, shape.decoder, vision, c))) for n, c in CONVENTIONS.items()}
    return Footprint(
        equivalent_tokens=float(answers.visual),
        given_tokens=float(answers.visual.given.mean()),
        left_tokens=float(answers.visual.left.mean()),
        text_tokens=float(text.mean()),
        kv_bytes=answers.kv_bytes / prompts,
        peak_bytes=peak,
        operations=counted,
    )


class Round(NamedTuple):
    """One round of one setting.

    Attributes:
        key: The setting.
        number: Number of the round.
        ms: Milliseconds by part.
        taken: The setting's costs other than time; None for settings without a compressor.
    """

    key: tuple[str, int]
    number: int
    ms: Mapping[str, float]
    taken: Footprint | None


def measure(
    loaded: LoadedModel,
    samples: Sequence[tuple[Image | Clip, str]],
    compressors: Mapping[tuple[str, int], Compressor],
    others: Mapping[tuple[str, int], Callable[[Clock], object]],
    length: tuple[int, int],
) -> tuple[list[Round], dict[tuple[str, int], str]]:
    """Measures all settings in every round, in reverse order in every other round, after a warm-up.

    The load of the machine changes from round to round, so settings should be compared within a round.

    Args:
        loaded: The model.
        samples: The batch: images or videos with one question each.
        compressors: The compressor of each setting.
        others: Further settings, functions that receive their clock.
        length: Number of tokens of every answer, and number of rounds.

    Returns:
        The rounds, and the error of each setting that the model does not support.

    Raises:
        FoveateError: An answer has fewer than two tokens, so that nothing is decoded, or there is no round.
    """
    new_tokens, rounds = length
    check_length(new_tokens, rounds)
    images, questions = zip(*samples, strict=True)
    taken, unsupported = {}, {}
    resized = {key: compressor.resized(loaded) for key, compressor in compressors.items()}
    for key, (small, compressor) in resized.items():
        try:
            taken[key] = footprint(Batch.of(small, images, questions), compressor, new_tokens)
        except (UnsupportedNeed, LayerError) as error:
            unsupported[key] = str(error)

    def run(small: LoadedModel, compressor: Compressor, clock: Clock) -> None:
        with clock.part(INPUTS):
            batch = Batch.of(small, images, questions)
        answer_batch(batch, compressor, new_tokens, clock)

    settings = {key: partial(run, *resized[key]) for key in taken} | dict(others)
    results: list[Round] = []
    with bar(len(settings) * (_WARM_UPS + rounds), "pass") as shown:
        for one in in_turn(settings, taken, loaded.model.device, range(-_WARM_UPS, rounds)):
            shown.update()
            if one.number >= 0:
                results.append(one)
    return results, unsupported


def in_turn(
    settings: Mapping[tuple[str, int], Callable[[Clock], object]],
    taken: Mapping[tuple[str, int], Footprint],
    device: torch.device,
    numbers: Iterable[int],
) -> Iterator[Round]:
    """Yields each measurement of all settings in turn, in reverse order in rounds of an odd number.

    Args:
        settings: The settings, functions that receive their clock.
        taken: The costs of settings other than time.
        device: The device that does the work.
        numbers: The numbers of the rounds.
    """
    for number in numbers:
        for key in list(settings)[:: -1 if number % 2 else 1]:
            clock = Clock(device)
            settings[key](clock)
            yield Round(key, number, clock.ms, taken.get(key))


def image_sizes(loaded: LoadedModel, sizes: Sequence[int], image: Image) -> Sequence[int]:
    """Returns the sides in pixels of the square images to measure with.

    Args:
        loaded: The model.
        sizes: The requested sides; empty means the model's own side, or 672 if it takes images of any size.
        image: An image to find out the model's own side.

    Raises:
        FoveateError: The model resizes every image to another side than a requested one.
    """
    check_sizes(sizes)
    if not loaded.adapter.fixed_grid:
        return sizes or (_TYPICAL,)
    own = loaded.image_inputs([image])[0]["pixel_values"].shape[-1]
    if set(sizes) - {own}:
        raise FoveateError(
            f"size {' '.join(map(str, sizes))}: {type(loaded.model).__name__} resizes every image to {own} x {own} "
            "pixels; leave the size out, or choose a model that takes images of any size"
        )
    return (own,)


@dataclass(frozen=True, repr=False)
class _TimedCut(AroundCut):
    """A cut whose time counts as scoring."""

    clock: Clock

    def cut(self, states: Tensor, trace: Trace) -> Decision:
        with self.clock.part("scoring"):
            return self.inner.cut(states, trace)
