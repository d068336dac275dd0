"""A low-fidelity proxy: proposals ranked by the patches that they keep, without running the language model on them.

For each image a proposal keeps a set of patches. Its agreement is the share of a signal that lies in that set,
averaged over the questions:

    evidence: the signal is equal on the patches that show what a question asks about (`metrics.evidence`),
    response: the signal is the attention that the uncompressed model pays while it answers (`ResponseAttention`),
              for which it answers every question once.

Whether the proxy predicts accuracy is measured: proposals that are evenly spaced in its ranking are evaluated in full.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import optuna
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.compressors import Compressor
from foveate.compressors.base import compressed_by
from foveate.core.contracts import ImageBatch
from foveate.core.errors import BudgetError, DataError, FoveateError
from foveate.core.progress import bar
from foveate.data.sample import VQASample
from foveate.evaluation.agreement import check_evaluated
from foveate.evaluation.answering import encodings_of
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.identity import identity_of
from foveate.evaluation.module import images_by_shape
from foveate.evaluation.prompts import with_prompts
from foveate.methods.fitting import with_fallbacks
from foveate.metrics.evidence import SHOWN
from foveate.models.backbone.adapter import Tower
from foveate.models.backbone.grouping import in_groups
from foveate.scorers import ResponseAttention
from foveate.studies.context import StudyContext
from foveate.studies.plan import ProxySignal
from foveate.studies.space import Planned, Space


class ProxyRanking(NamedTuple):
    """Proposals drawn from a space, each with its agreement.

    Attributes:
        params: The proposals' parameters.
        agreement: Their agreement with the signal; higher is better.
    """

    params: list[dict]
    agreement: np.ndarray

    def planned(self, best: int, spaced: int) -> list[Planned]:
        """Returns the best proposals, after others evenly spaced in the ranking: an even sample of the space."""
        order = np.argsort(-self.agreement, kind="stable")
        positions = np.unique(np.linspace(0, len(order) - 1, spaced).round().astype(int)) if spaced else []
        chosen = [("spaced", order[position]) for position in positions] + [("proxy", i) for i in order[:best]]
        return [Planned(self.params[i], source=source, agreement=float(self.agreement[i])) for source, i in chosen]


def rank_by_proxy(context: StudyContext, space: Space, signal: ProxySignal, candidates: int, seed: int) -> ProxyRanking:
    """Draws proposals at random and ranks them; equal ones are ranked once.

    Args:
        context: The model and the questions.
        space: The space from which proposals are drawn.
        signal: The signal with which kept patches are compared.
        candidates: Number of proposals.
        seed: Seed of the draws.

    Raises:
        FoveateError: What the space keeps depends on the question or on the language model.
    """
    wanted, groups, images = _signal(context, signal)
    params, agreement = [], []
    for proposed, compressor in _proposals(space, context.tower, candidates, seed):
        if compressor.cuts or compressor.per_question:
            raise FoveateError(
                f"{compressor!r}: what it keeps is known only once the language model runs, so a proxy cannot "
                "rank it; leave the proxy out (--proxy none)"
            )
        params.append(proposed)
        kept = in_groups(partial(compressed_by, compressor), groups, images).decision.compression.kept
        agreement.append(_agreement(kept, wanted))
    return ProxyRanking(params, np.array(agreement))


def _proposals(space: Space, tower: Tower, candidates: int, seed: int) -> Iterator[tuple[dict, Compressor]]:
    """Yields random parameters with their compressors, each compressor once."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    drawn: set[str] = set()
    for _ in bar(range(candidates), "proposal", "ranking"):
        trial = study.ask()
        try:
            compressor = with_fallbacks(space.suggest(trial).compressor, tower)
        except BudgetError:
            continue
        if (identity := identity_of(compressor, "compressor")) not in drawn:
            drawn.add(identity)
            yield trial.params, compressor


def _signal(
    context: StudyContext, signal: ProxySignal
) -> tuple[Tensor, list[list[int]], Callable[[list[int]], ImageBatch]]:
    """Returns the signal, shape (image, patch) and of sum 1, and the images as `images_by_shape` does."""
    config, loaded = context.config, context.loaded
    encodings = encodings_of(config, loaded, context.samples, context.identity["data_hash"])
    check_evaluated(config, loaded)
    pairs = list(with_prompts(config, loaded, context.samples, encodings.arrangements))
    if not pairs:
        raise DataError(
            f"none of {len(context.samples)} questions of {config.data!r} is about one image: a proxy cannot rank "
            "proposals on others"
        )
    samples, prompts = [sample for sample, _ in pairs], [prompt for _, prompt in pairs]
    share = evidence_of(samples, [encodings.arrangements[sample.image_id] for sample in samples], loaded)
    if signal == "evidence":
        worth = _evidence_shares(share)
    else:
        worth = _response_shares(encodings, samples, prompts, config.per_batch)
    first = {sample.image_id: row for row, sample in reversed(list(enumerate(samples)))}
    owner = torch.tensor([list(first).index(sample.image_id) for sample in samples])
    wanted = torch.zeros(len(first), worth.shape[1]).index_add_(0, owner, worth) / worth.sum()
    rows = list(first.values())
    return wanted, *images_by_shape(encodings, [samples[i] for i in rows], [prompts[i] for i in rows], share[rows])


def _agreement(kept: Sequence[Tensor], wanted: Tensor) -> float:
    mask = torch.zeros_like(wanted)
    for row, patches in zip(mask, kept, strict=True):
        row[patches] = 1
    return float((mask * wanted).sum())


def _evidence_shares(share: Tensor) -> Tensor:
    """Returns equal shares of the patches with evidence, shape (question, patch); zeros without known evidence."""
    evidence = (share >= SHOWN).any(1).float()
    return evidence / evidence.sum(1, keepdim=True).clamp(min=1)


@torch.inference_mode()
def _response_shares(
    encodings: Encodings, samples: Sequence[VQASample], prompts: Sequence[list[int]], batch_size: int
) -> Tensor:
    """Returns the uncompressed model's response attention, shape (question, patch), with rows of sum 1."""
    scorer, scores = ResponseAttention(), [torch.empty(0)] * len(samples)
    for start in bar(range(0, len(samples), batch_size), "batch", "response attention"):
        batch = slice(start, start + batch_size)
        no_evidence = torch.zeros(len(samples[batch]), 0, 0)
        groups, images = images_by_shape(encodings, samples[batch], prompts[batch], no_evidence)
        for rows in groups:
            found = scorer.score(images(rows).encode(scorer.needs)[1]).float().cpu()
            for row, score in zip(rows, found, strict=True):
                scores[start + row] = score
    attention = pad_sequence(scores, batch_first=True)
    return attention / attention.sum(1, keepdim=True)
