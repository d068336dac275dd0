"""The cheap proxy: many proposals ranked by what they keep, without asking the language model about any of them.

For each image a proposal keeps a set of patches; its agreement is how much of what matters lies in that set, as a
mean over the questions:

    evidence: the mean share of the patches that show what is asked about which are kept (`metrics.evidence`),
    response: the share of the attention kept that the uncompressed model pays while it answers (`ResponseAttention`),
              for which it answers every question once.

Whether that foretells accuracy is measured, not assumed: some proposals at even places of the ranking are evaluated in
full.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import optuna
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.compressors.base import compressed_by
from foveate.core.errors import BudgetError, FoveateError
from foveate.core.progress import bar
from foveate.data.sample import VQASample
from foveate.evaluation import EvalConfig
from foveate.evaluation.agreement import check_evaluated
from foveate.evaluation.answering import encodings_of
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.identity import identity_of
from foveate.evaluation.module import images_by_shape
from foveate.evaluation.prompts import with_prompts
from foveate.evaluation.run import cached_load, data_of
from foveate.methods.fitting import with_fallbacks
from foveate.metrics.evidence import SHOWN
from foveate.models.backbone.grouping import in_groups
from foveate.scorers import ResponseAttention
from foveate.studies.plan import ProxySignal
from foveate.studies.space import Planned, Space


class ProxyRanking(NamedTuple):
    """Proposals drawn from the space's prior.

    Attributes:
        params: Of each proposal.
        agreement: Of each; higher is better.
    """

    params: list[dict]
    agreement: np.ndarray

    def planned(self, best: int, spaced: int) -> list[Planned]:
        """The best ones, and some at even places of the ranking, which are an even sample of the prior."""
        order = np.argsort(-self.agreement, kind="stable")
        places = np.unique(np.linspace(0, len(order) - 1, spaced).round().astype(int)) if spaced else []
        chosen = [("spaced", order[place]) for place in places] + [("proxy", i) for i in order[:best]]
        return [Planned(self.params[i], source=source, agreement=float(self.agreement[i])) for source, i in chosen]


def rank_by_proxy(space: Space, config: EvalConfig, signal: ProxySignal, candidates: int, seed: int) -> ProxyRanking:
    """Draws proposals and ranks them.

    Args:
        space: Where they come from.
        config: Model and data.
        signal: What the kept patches are compared with.
        candidates: How many are drawn; of equal ones one is ranked.
        seed: Of drawing.

    Raises:
        FoveateError: What the space keeps is only known once the language model runs.
    """
    loaded = cached_load(config.model, config.device, config.dtype)
    samples, questions = data_of(config.data, config.split, config.limit, config.seed)
    encodings = encodings_of(config, loaded, samples, questions)
    check_evaluated(config, loaded)
    every = list(with_prompts(config, loaded, samples, encodings.arrangements))
    samples, prompts = [sample for sample, _ in every], [prompt for _, prompt in every]
    arranged = [encodings.arrangements[sample.image_id] for sample in samples]
    share = evidence_of(samples, arranged, loaded)
    worth = _shown(share) if signal == "evidence" else _looked_at(encodings, samples, prompts, config.batch_size)
    first = {sample.image_id: row for row, sample in reversed(list(enumerate(samples)))}
    owner = torch.tensor([list(first).index(sample.image_id) for sample in samples])
    wanted = torch.zeros(len(first), worth.shape[1]).index_add_(0, owner, worth) / worth.sum()
    rows = list(first.values())
    groups, images = images_by_shape(encodings, [samples[i] for i in rows], [prompts[i] for i in rows], share[rows])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    params, agreement, seen = [], [], set()
    for _ in bar(range(candidates), "proposal", "ranking"):
        trial = study.ask()
        try:
            compressor = with_fallbacks(space.suggest(trial).compressor, loaded.adapter.tower)
        except BudgetError:
            continue
        if (known := identity_of(compressor, "compressor")) in seen:
            continue
        seen.add(known)
        if compressor.cuts or compressor.per_question:
            raise FoveateError(
                f"{compressor!r}: what it keeps is known only once the language model runs, so a proxy cannot "
                "rank it; leave the proxy out (--proxy none)"
            )
        params.append(trial.params)
        made = in_groups(partial(compressed_by, compressor), groups, images)
        agreement.append(_agreement(made.decision.compression.kept, wanted))
    return ProxyRanking(params, np.array(agreement))


def _agreement(kept: Sequence[Tensor], wanted: Tensor) -> float:
    stays = torch.zeros_like(wanted)
    for row, patches in zip(stays, kept, strict=True):
        row[patches] = 1
    return float((stays * wanted).sum())


def _shown(share: Tensor) -> Tensor:
    """(question, patch), of sum 1: the patches that show what is asked about; 0 where nothing is known."""
    shown = (share >= SHOWN).any(1).float()
    return shown / shown.sum(1, keepdim=True).clamp(min=1)


@torch.inference_mode()
def _looked_at(
    encodings: Encodings, samples: Sequence[VQASample], prompts: Sequence[list[int]], batch_size: int
) -> Tensor:
    """(question, patch), of sum 1: where the uncompressed model looks while it answers."""
    scorer, scores = ResponseAttention(), [torch.empty(0)] * len(samples)
    for start in bar(range(0, len(samples), batch_size), "batch", "looking"):
        batch = slice(start, start + batch_size)
        share = torch.zeros(len(samples[batch]), 0, 0)
        groups, images = images_by_shape(encodings, samples[batch], prompts[batch], share)
        for rows in groups:
            found = scorer.score(images(rows).encode(scorer.needs)[1]).float().cpu()
            for row, score in zip(rows, found, strict=True):
                scores[start + row] = score
    attention = pad_sequence(scores, batch_first=True)
    return attention / attention.sum(1, keepdim=True)
