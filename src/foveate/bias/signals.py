"""Everything that might say which patches matter, as maps over the patches of each question's image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.bias.causal import Inquiry
from foveate.compressors import Identity
from foveate.core.contracts import ImageBatch
from foveate.core.needs import ClsRows, Fingerprint, Need, ReceivedRows
from foveate.metrics.evidence import SHOWN
from foveate.models.backbone.adapter import Adapter
from foveate.models.runtime.response_attention import attention_maps
from foveate.scorers import Random, Uniform

RANDOM_SEEDS = range(3)
EVERY = slice(None)  # question of a batch
_TIE = 1e-3  # what an oracle that knows yes or no gives at random, so that it prefers no place; float32 tells it from 0


class Signal(NamedTuple):
    """One map per head and question that it is about.

    Attributes:
        name: What it is.
        layers: Of the tower or the language model, as text; of random maps the seed; empty without.
        rows: At least 0.
        per_question: Whether it depends on the question, and not on the image alone.
        has_curve: Whether patches are left and taken away in its order.
        about: Which questions of the batch have a row.
    """

    name: str
    layers: str
    rows: Float[Tensor, "row head patch"]
    per_question: bool
    has_curve: bool = True
    about: Bool[np.ndarray, " question"] | slice = EVERY

    @property
    def is_attention(self) -> bool:
        """Returns whether its sum is the attention that goes to patches at all."""
        return self.name not in ("evidence", "random", "uniform")

    @property
    def map(self) -> Float[Tensor, "row patch"]:
        """Returns the mean over heads."""
        return self.rows.mean(1)

    def scores(self, images: np.ndarray) -> Float[Tensor, "row patch"]:
        """Its maps, one per question that it is about, or one per image if that is all it knows.

        Args:
            images: The image of each question of the batch; those about an image follow each other.
        """
        asked = images[self.about]
        first = [i for i, image in enumerate(asked) if not i or image != asked[i - 1]]
        return self.map if self.per_question else self.map[first]


def signals_of(llava: Adapter, images: ImageBatch, share: Float[Tensor, "question thing patch"]) -> list[Signal]:
    """Returns what is known before the language model runs, and the controls.

    The seeds of the random maps are the same in every measurement, whatever the seed of the data: a map is drawn from
    its seed and the pixels of its image, so that runs can be compared question by question.

    Args:
        llava: The model.
        images: One row per question.
        share: Which patches show what is asked about; the oracle is silent about questions of which none is known to.
    """
    tower = llava.tower
    every, received = ClsRows(tuple(range(tower.depth))), [ReceivedRows(layer) for layer in range(tower.depth)]
    needs: list[Need] = [Fingerprint(), *received, *([every] if tower.has_cls else [])]
    _, trace = images.encode(needs)
    found = []
    if tower.has_cls:
        rows = trace[every].cpu()
        found += [Signal("cls", str(layer), rows[:, layer], False) for layer in range(tower.depth)]
        last = range(max(0, tower.feature_layer - 2), tower.feature_layer + 1)  # three, as VTC-CLS
        sums = dict.fromkeys((tuple(range(tower.depth)), tuple(last)))
        found += [Signal("cls sum", f"{some[0]}-{some[-1]}", rows[:, some].mean(1), False) for some in sums]
    fallback = max(0, tower.depth - 2)  # ReceivedAttention(layer=-2), which the adapter names where there is no [CLS]
    found += [
        Signal("received", str(need.layer), trace[need].cpu(), False, need.layer == fallback) for need in received
    ]
    shown = (share >= SHOWN).any(1)
    if (known := shown.any(1)).any():
        rest = _TIE * Random(len(RANDOM_SEEDS)).score(trace).cpu()  # none of the controls, so as not to agree with one
        found.append(Signal("evidence", "", (shown + rest)[known][:, None], True, about=known.numpy()))
    found += [Signal("random", str(seed), Random(seed).score(trace).cpu()[:, None], False) for seed in RANDOM_SEEDS]
    return [*found, Signal("uniform", "", Uniform().score(trace).cpu()[:, None], False)]


class Heard(NamedTuple):
    """What the language model looks at: signals, and the rows that produce single tokens of each answer."""

    signals: list[Signal]
    tokens: Float[Tensor, "question token patch"]


def asked_signals(inquiry: Inquiry, images: ImageBatch, prompts: Sequence[Sequence[int]], tokens: int) -> Heard:
    """Returns what the uncompressed language model looks at while it reads each prompt and says its answer.

    Args:
        inquiry: The questions with the model's own answers.
        images: One row per question.
        prompts: Their full prompts.
        tokens: How many tokens of an answer have rows of their own.
    """
    seen = attention_maps(inquiry.llava, prompts, Identity().compress(images), inquiry.answers, tokens)
    depth = inquiry.llava.decoder.depth
    said = seen.answer[:, 0, 0, 0].isfinite().cpu()
    rows = {"prompt": seen.last, "question": seen.question, "every": seen.every, "response": seen.response}
    rows |= {"answer": seen.answer[said.to(seen.answer.device)]} if said.any() else {}
    found = []
    for name, of_blocks in rows.items():
        about = said.numpy() if name == "answer" else EVERY
        curves = name == "prompt"
        found += [Signal(name, str(k), of_blocks[:, k].cpu(), True, curves, about) for k in range(depth)]
        if name != "every":
            curves = name in ("question", "response")
            found.append(Signal(name, f"0-{depth - 1}", of_blocks.mean(1).cpu(), True, curves, about))
    return Heard(found, seen.tokens.cpu())


def norms_of(images: ImageBatch) -> Float[Tensor, "question patch"]:
    """Returns the norms of the features that the projector is given."""
    sources, _ = images.encode(())
    return sources[:, : images.arrangement.patches].float().norm(dim=-1).cpu()


def target_of(signals: Sequence[Signal], name: str) -> Float[Tensor, "question patch"]:
    """Returns the mean row of "response" or "answer" over all blocks and heads; NaN where undefined.

    Args:
        signals: About a batch of questions.
        name: Which of the two definitions.
    """
    of = {signal.name: signal for signal in signals}  # of each name the last, which is the mean over all blocks
    target = torch.full_like(of["response"].map, torch.nan)
    if name in of:
        target[of[name].about] = of[name].map
    return target
