"""Where the time of an answer goes, part by part, and what it takes besides: memory, cache, operations, tokens.

A batch of prompts with an image each goes through the project's own engine, and nothing is shared between questions:

    vision       the tower, with recording the rows of attention that a method needs inside its pass
    scoring      what else a method computes of images and questions, selecting and merging, also at a cut inside the
                 language model, and putting tokens in order
    projector    from the tower's width to the language model's
    prefill      from embedding the prompt to the first token of the answer; recording rows inside is part of it
    decode       all further tokens

The parts add up to the total. Before them stands "inputs": making tensors of images and words.
"""

from collections.abc import Callable, Mapping, Sequence
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
from foveate.models.backbone.adapter import ImageInputs
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
    """Prompts with an image each, as a model is given them.

    Attributes:
        loaded: The model.
        inputs: The model's inputs about the images.
        arrangements: Of each image.
        texts: Prompts and questions.
    """

    loaded: LoadedModel
    inputs: ImageInputs
    arrangements: Sequence[Arrangement]
    texts: Texts

    @classmethod
    def of(cls, loaded: LoadedModel, images: Sequence[Image], questions: Sequence[str]) -> "Batch":
        """A question about each image."""
        inputs, arrangements = loaded.image_inputs(images)
        prompts = [loaded.prompt(question, image) for question, image in zip(questions, arrangements, strict=True)]
        asked = [loaded.adapter.question(prompt, loaded.text_side.tail) for prompt in prompts]
        return cls(loaded, inputs, arrangements, Texts(prompts, asked, questions))

    def images(self, rows: list[int]) -> LiveImages:
        """Some of them, of one arrangement."""
        adapter = self.loaded.adapter
        inputs, one = adapter.chosen(self.inputs, rows, self.arrangements), self.arrangements[rows[0]]
        return LiveImages(adapter, inputs, one, lambda: self.texts.of(rows), self.loaded.companion)


class Answered(NamedTuple):
    """What came of one batch.

    Attributes:
        tokens: (prompt, token) of the answers.
        visual: Visual tokens of each prompt, block by block.
        text: Other tokens of each prompt.
        kv_bytes: Keys and values of all prompts, padding too, when the prompts have run.
    """

    tokens: Tensor
    visual: TokenAccount
    text: Tensor
    kv_bytes: int


class Footprint(NamedTuple):
    """What a method takes besides time.

    Attributes:
        equivalent_tokens: Visual tokens, mean over the language model's blocks; this and the next three are means over
            prompts.
        given_tokens: Those that enter its first block.
        left_tokens: Those that its last block sees.
        text_tokens: All others of the prompt.
        kv_bytes: Keys and values of a prompt, padding to the longest of the batch included.
        peak_bytes: Most memory that the batch holds at once above weights and inputs; None where it cannot be known.
        operations: By name of `CONVENTIONS`, mean over prompts. A tower counts once and in full, also if a method
            shortens it or runs it twice.
    """

    equivalent_tokens: float
    given_tokens: float
    left_tokens: float
    text_tokens: float
    kv_bytes: float
    peak_bytes: int | None
    operations: Mapping[str, float]


@torch.inference_mode()
def answered(batch: Batch, compressor: Compressor, new_tokens: int, clock: Clock) -> Answered:
    """Greedy answers of a fixed length; the end of an answer is not heeded, so that all methods decode as much.

    Args:
        batch: The questions.
        compressor: The method.
        new_tokens: Of every answer.
        clock: Told the parts.

    Raises:
        FoveateError: The method cannot work with this model.
    """
    adapter = batch.loaded.adapter
    cuts = [_TimedCut(cut, clock) for cut in checked_cuts(compressor)]
    parts = ((adapter, "encode", "vision"), (adapter, "reduced", "vision"), (adapter.projector, "forward", "projector"))
    with clock.part("scoring"), clock.listening(*parts):
        groups = group_by_shape(batch.arrangements)
        compressed = in_groups(lambda some: compressed_by(compressor, some, adapter.extra_needs), groups, batch.images)
    with clock.part("prefill"):
        states, layout = embedded(adapter, batch.texts.prompts, compressed, compressor.repack)
        blocks = DecoderPasses(adapter.decoder, layout, cuts, compressed)
        answer = [adapter.decoder.logits(blocks.prompt(states)[:, -1]).argmax(-1)]
    cached: Any = blocks.cache.layers  # keys and values, but in models with linear attention
    kv_bytes = sum(x.nbytes for layer in cached for x in (layer.keys, layer.values))
    with clock.part("decode"):
        embed = adapter.inner.get_input_embeddings()
        real = torch.ones_like(answer[0][:, None], dtype=torch.bool)
        for _ in range(new_tokens - 1):
            states = blocks.step(embed(answer[-1][:, None]), real)
            answer.append(adapter.decoder.logits(states[:, -1]).argmax(-1))
    visual = account(blocks.pruning.per_block)
    text = layout.following.new_tensor([len(p) - p.count(adapter.image_token) for p in map(list, batch.texts.prompts)])
    return Answered(torch.stack(answer, 1), visual, text, kv_bytes)


def footprint(batch: Batch, compressor: Compressor, new_tokens: int) -> Footprint:
    """What a method takes besides time, from passes of their own.

    Raises:
        FoveateError: The method cannot work with this model.
    """
    adapter, device = batch.loaded.adapter, batch.loaded.model.device
    adapter.check(compressor.needs, compressor.cuts)
    projected: list[int] = []
    with adapter.projector.register_forward_hook(lambda _, args, out: projected.append(out.shape[:-1].numel())):
        seen = answered(batch, compressor, new_tokens, Clock(device))
    peak = peak_bytes(lambda: answered(batch, compressor, new_tokens, Clock(device)), device)
    shape, prompts = ModelShape.of(adapter.model.config.to_dict()), len(seen.text)
    vision_grids = [grid for image in batch.arrangements for grid in adapter.vision_grids(batch.inputs, image)]
    vision = (tower_macs(shape.tower, vision_grids) + projector_macs(shape.projector, sum(projected))) / prompts
    visual, text = seen.visual.per_block.double().cpu().numpy(), seen.text.double().cpu().numpy()
    counted = {n: float(np.mean(operations(visual, text, shape.decoder, vision, c))) for n, c in CONVENTIONS.items()}
    return Footprint(
        equivalent_tokens=float(seen.visual),
        given_tokens=float(seen.visual.given.mean()),
        left_tokens=float(seen.visual.left.mean()),
        text_tokens=float(text.mean()),
        kv_bytes=seen.kv_bytes / prompts,
        peak_bytes=peak,
        operations=counted,
    )


class Round(NamedTuple):
    """One round of one setting.

    Attributes:
        key: Which setting.
        number: Of the round.
        ms: By part.
        taken: What it takes besides time; None of what is no compressor.
    """

    key: tuple[str, int]
    number: int
    ms: Mapping[str, float]
    taken: Footprint | None


def measured(
    loaded: LoadedModel,
    asked: Sequence[tuple[Image, str]],
    compressors: Mapping[tuple[str, int], Compressor],
    others: Mapping[tuple[str, int], Callable[[Clock], object]],
    length: tuple[int, int],
) -> tuple[list[Round], dict[tuple[str, int], str]]:
    """All settings in every round, every other round backwards, after a warm-up; and why some could not be measured.

    Whatever else the machine does changes from round to round, so what belongs to one round should be compared.

    Args:
        loaded: The model.
        asked: Images with a question each: one batch.
        compressors: The settings.
        others: What else is timed in turn with them; told its clock.
        length: Tokens of every answer, and number of rounds.

    Raises:
        FoveateError: Fewer than two tokens are asked for, of which decoding has none, or no round.
    """
    new_tokens, rounds = length
    check_length(new_tokens, rounds)
    images, questions = zip(*asked, strict=True)
    taken, unable = {}, {}
    for key, compressor in compressors.items():
        try:
            taken[key] = footprint(Batch.of(loaded, images, questions), compressor, new_tokens)
        except (UnsupportedNeed, LayerError) as error:
            unable[key] = str(error)

    def run(compressor: Compressor, clock: Clock) -> None:
        with clock.part(INPUTS):
            batch = Batch.of(loaded, images, questions)
        answered(batch, compressor, new_tokens, clock)

    settings = {key: partial(run, compressors[key]) for key in taken} | dict(others)
    found: list[Round] = []
    with bar(len(settings) * (_WARM_UPS + rounds), "pass") as shown:
        for number in range(-_WARM_UPS, rounds):
            for key in list(settings)[:: -1 if number % 2 else 1]:
                clock = Clock(loaded.model.device)
                settings[key](clock)
                shown.update()
                if number >= 0:
                    found.append(Round(key, number, clock.ms, taken.get(key)))
    return found, unable


def sides_of(loaded: LoadedModel, asked: Sequence[int], image: Image) -> Sequence[int]:
    """Sides of square images in pixels that a model can be shown.

    Args:
        loaded: The model.
        asked: The sides that are wanted; nothing means what the model sees, or a typical one.
        image: Any.

    Raises:
        FoveateError: The model sees every image at one other size.
    """
    check_sizes(asked)
    wanted = " ".join(map(str, asked))
    if not loaded.adapter.fixed_grid:
        return asked or (_TYPICAL,)
    own = loaded.image_inputs([image])[0]["pixel_values"].shape[-1]
    if set(asked) - {own}:
        raise FoveateError(
            f"size {wanted}: {type(loaded.model).__name__} sees every image at {own} x {own} pixels; leave it out, "
            "or take a model that sees images of any size"
        )
    return (own,)


@dataclass(frozen=True, repr=False)
class _TimedCut(AroundCut):
    """A cut that is told apart from the blocks around it."""

    clock: Clock

    def cut(self, states: Tensor, trace: Trace) -> Decision:
        with self.clock.part("scoring"):
            return self.inner.cut(states, trace)
