"""Signals of patch importance: attention, evidence and controls, as maps over the patches of each question's image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.bias.causal import AnsweredBatch
from foveate.compressors import Identity
from foveate.core.contracts import ImageBatch
from foveate.core.needs import ClsRows, Fingerprint, Need, ReceivedRows
from foveate.metrics.evidence import SHOWN
from foveate.models.backbone.adapter import Adapter
from foveate.models.runtime.response_attention import attention_maps
from foveate.scorers import Random, Uniform

RANDOM_SEEDS = range(3)
EVERY = slice(None)  # all questions of a batch
_TIE = 1e-3  # scale of random scores that break the ties of a binary oracle without a preference for positions


class Signal(NamedTuple):
    """A map per head for each question that the signal is defined for.

    Attributes:
        name: Name of the signal.
        layers: Layers of the tower or blocks of the language model as text; the seed of random maps; else empty.
        rows: The maps, at least 0.
        per_question: Whether the maps depend on the question and not on the image alone.
        has_curve: Whether insertion and deletion curves are measured.
        about: Questions of the batch that have a row.
    """

    name: str
    layers: str
    rows: Float[Tensor, "row head patch"]
    per_question: bool
    has_curve: bool = True
    about: Bool[np.ndarray, " question"] | slice = EVERY

    @property
    def is_attention(self) -> bool:
        """Returns whether the sum of a map is the attention to all patches."""
        return self.name not in ("evidence", "random", "uniform")

    @property
    def map(self) -> Float[Tensor, "row patch"]:
        """The mean over heads."""
        return self.rows.mean(1)

    def scores(self, images: np.ndarray) -> Float[Tensor, "row patch"]:
        """Returns one map per question of the signal, or one per image if it does not depend on the question.

        Args:
            images: The image of each question of the batch; those about an image follow each other.
        """
        own = images[self.about]
        first = [i for i, image in enumerate(own) if not i or image != own[i - 1]]
        return self.map if self.per_question else self.map[first]


def tower_signals(adapter: Adapter, images: ImageBatch, share: Float[Tensor, "question thing patch"]) -> list[Signal]:
    """Returns the signals of the vision tower and the controls.

    A random map is drawn from its seed and the pixels of its image, independently of the seed of the data, so that runs
    can be compared question by question.

    Args:
        adapter: The model.
        images: One row per question.
        share: Share of each patch that shows each needed thing; the evidence signal exists only where some patch does.
    """
    tower = adapter.tower
    every, received = ClsRows(tuple(range(tower.depth))), [ReceivedRows(layer) for layer in range(tower.depth)]
    needs: list[Need] = [Fingerprint(), *received, *([every] if tower.has_cls else [])]
    _, trace = images.encode(needs)
    found = []
    if tower.has_cls:
        rows = trace[every].cpu()
        found += [Signal("cls", str(layer), rows[:, layer], False) for layer in range(tower.depth)]
        last = range(max(0, tower.feature_layer - 2), tower.feature_layer + 1)  # three layers, as in VTC-CLS
        sums = dict.fromkeys((tuple(range(tower.depth)), tuple(last)))
        found += [Signal("cls sum", f"{some[0]}-{some[-1]}", rows[:, some].mean(1), False) for some in sums]
    fallback = max(0, tower.depth - 2)  # layer of ReceivedAttention(layer=-2), the fallback of towers without [CLS]
    found += [
        Signal("received", str(need.layer), trace[need].cpu(), False, need.layer == fallback) for need in received
    ]
    shown = (share >= SHOWN).any(1)
    if (known := shown.any(1)).any():
        rest = _TIE * Random(len(RANDOM_SEEDS)).score(trace).cpu()  # a seed that no control has
        found.append(Signal("evidence", "", (shown + rest)[known][:, None], True, about=known.numpy()))
    found += [Signal("random", str(seed), Random(seed).score(trace).cpu()[:, None], False) for seed in RANDOM_SEEDS]
    return [*found, Signal("uniform", "", Uniform().score(trace).cpu()[:, None], False)]


class DecoderSignals(NamedTuple):
    """Attention of the language model: signals, and the rows that produce single tokens of each answer."""

    signals: list[Signal]
    tokens: Float[Tensor, "question token patch"]


def decoder_signals(
    answered: AnsweredBatch, images: ImageBatch, prompts: Sequence[Sequence[int]], tokens: int
) -> DecoderSignals:
    """Returns the attention of the uncompressed language model while it reads each prompt and its answer.

    Args:
        answered: The questions and answers.
        images: One row per question.
        prompts: Full prompts of the questions.
        tokens: Number of tokens of an answer that have rows of their own.
    """
    maps = attention_maps(answered.adapter, prompts, Identity().compress(images), answered.answers, tokens)
    depth = answered.adapter.decoder.depth
    known = maps.answer[:, 0, 0, 0].isfinite().cpu()
    rows = {"prompt": maps.last, "question": maps.question, "every": maps.every, "response": maps.response}
    rows |= {"answer": maps.answer[known.to(maps.answer.device)]} if known.any() else {}
    found = []
    for name, of_blocks in rows.items():
        about = known.numpy() if name == "answer" else EVERY
        curves = name == "prompt"
        found += [Signal(name, str(k), of_blocks[:, k].cpu(), True, curves, about) for k in range(depth)]
        if name != "every":
            curves = name in ("question", "response")
            found.append(Signal(name, f"0-{depth - 1}", of_blocks.mean(1).cpu(), True, curves, about))
    return DecoderSignals(found, maps.tokens.cpu())


def feature_norms(images: ImageBatch) -> Float[Tensor, "question patch"]:
    """Returns the norms of the features that the projector receives."""
    sources, _ = images.encode(())
    return sources[:, : images.arrangement.patches].float().norm(dim=-1).cpu()


def mean_attention(signals: Sequence[Signal], name: str) -> Float[Tensor, "question patch"]:
    """Returns the mean of "response" or "answer" attention over all blocks and heads; NaN where undefined.

    Args:
        signals: Signals of a batch of questions.
        name: One of the two definitions of response attention.
    """
    by_name = {signal.name: signal for signal in signals}  # the last of each name, the mean over all blocks
    mean = torch.full_like(by_name["response"].map, torch.nan)
    if name in by_name:
        mean[by_name[name].about] = by_name[name].map
    return mean
