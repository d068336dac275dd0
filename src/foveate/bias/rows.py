"""Signals measured against what the answer looks at, what it hangs on, and where the evidence lies, as table rows."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveate.bias.causal import Curve
from foveate.bias.metrics import (
    centroid_shift,
    effective_tokens,
    entropy,
    jensen_shannon,
    kendall,
    kendall_matrix,
    last_rows_share,
    raster_correlation,
    retained_mass,
    row_correlation,
    sink_share,
    spearman,
    top_overlap,
)
from foveate.bias.signals import EVERY, Signal
from foveate.core.arrangement import Grid
from foveate.functional.ranking import marked, ranked
from foveate.functional.regions import spread
from foveate.metrics.evidence import SHOWN, evidence_precision, evidence_recall

MEAN = -1  # as number of a head: the mean over all
_ONE_OF_A_KIND = ("every", "uniform")  # signals that no pair is made of, for pairs are many
_AT_ONCE = 2**23  # pairs times patches; more would only cost memory


class Worths(NamedTuple):
    """What the model's own answer hangs on, in nats of its log-probability, by three interventions.

    Attributes:
        block: The fall without each block of patches, everything else left.
        thinned: The Shapley-type value of each block: its mean rise beside some of the others, over a few orders.
        thing: The fall without all patches of each needed thing; NaN where none is known.
    """

    block: Float[Tensor, "question block"]
    thinned: Float[Tensor, "question block"]
    thing: Float[Tensor, "question thing"]


class Facts(NamedTuple):
    """What signals about a batch of questions are measured against.

    Attributes:
        grid: Of an image.
        keep: How many patches the top are.
        response: What the answer looks at: rows of the tokens that produce it.
        answer: Rows of the answer's own tokens only; NaN where it has fewer than two.
        share: Which patches show each needed thing.
        norms: Of the features.
        worths: What the answer hangs on, in nats of its log-probability.
        block: The block of each patch.
    """

    grid: Grid
    keep: int
    response: Float[Tensor, "question patch"]
    answer: Float[Tensor, "question patch"]
    share: Float[Tensor, "question thing patch"]
    norms: Float[Tensor, "question patch"]
    worths: Worths
    block: Int[Tensor, " patch"]

    def of(self, questions: Bool[np.ndarray, " question"] | slice) -> "Facts":
        """Returns the facts about some of the questions."""
        names = ("response", "answer", "share", "norms")
        worths = Worths(*(worth[questions] for worth in self.worths))
        return self._replace(worths=worths, **{name: getattr(self, name)[questions] for name in names})


class Measured(NamedTuple):
    """The questions of a batch, and the signals about them."""

    samples: np.ndarray
    images: np.ndarray
    signals: Sequence[Signal]


def measures(
    rows: Float[Tensor, "question head patch"], facts: Facts, with_kendall: bool = True
) -> dict[str, Float[Tensor, "question head"]]:
    """Returns every measure of every row.

    Args:
        rows: Of one signal.
        facts: About the same questions.
        with_kendall: Whether tau is wanted, which takes most of the time; else it is NaN.
    """
    heads = rows.shape[1]
    stays = marked(ranked(rows.flatten(0, 1), facts.keep), rows.shape[2]).unflatten(0, rows.shape[:2])
    response, answer, norms = (side[:, None].expand_as(rows) for side in (facts.response, facts.answer, facts.norms))
    unsaid = answer.isnan().any(-1)
    share = facts.share[:, None].expand(-1, heads, -1, -1).flatten(0, 1)
    drop, worth = (side[:, None].expand(-1, heads, -1) for side in facts.worths[:2])
    within = _by_block(rows, facts.block)
    down, right = centroid_shift(rows, facts.grid)
    unknown = torch.full(rows.shape[:2], torch.nan)
    return {
        "visual_mass": rows.sum(-1),
        "overlap_response": top_overlap(rows, response, facts.keep),
        "spearman_response": spearman(rows, response),
        "kendall_response": kendall(rows, response) if with_kendall else unknown,
        "js_response": jensen_shannon(rows, response),
        "retained_response": retained_mass(response, stays),
        "overlap_answer": top_overlap(rows, answer.nan_to_num(), facts.keep).masked_fill(unsaid, torch.nan),
        "spearman_answer": spearman(rows, answer),
        "evidence_recall": _of_each(evidence_recall, stays, share),
        "evidence_precision": _of_each(evidence_precision, stays, share),
        "entropy": entropy(rows),
        "effective_tokens": effective_tokens(rows),
        "raster_correlation": raster_correlation(rows),
        "row_correlation": row_correlation(rows, facts.grid),
        "centroid_down": down,
        "centroid_right": right,
        "last_rows_share": last_rows_share(rows, facts.grid, max(1, facts.grid.rows // 4)),
        "sink_share": sink_share(rows, norms),
        "block_spearman": spearman(within, drop),
        "thinned_spearman": spearman(within, worth),
        "block_hit": (within.argmax(-1) == drop.argmax(-1)).double(),
        **nats(stays, facts),
    }


def nats(stays: Bool[Tensor, "question head patch"], facts: Facts) -> dict[str, Float[Tensor, "question head"]]:
    """Returns what the patches that stay are worth to the answer, in nats.

    The worth of a block is divided evenly among its patches, that of a thing among the patches that show it. Where an
    answer is more likely without a block or a thing, that is worth nothing; in `thinned` it counts as it is, because
    its errors of sampling have both signs.

    Args:
        stays: Of each head.
        facts: About the same questions.
    """
    block, thinned, thing = (worth.double() for worth in facts.worths)
    of_patch = [spread(worth, facts.block)[:, None] for worth in (block.clamp(min=0), thinned)]
    shown = (facts.share >= SHOWN).double()
    left = stays.double() @ shown.mT / shown.sum(2)[:, None]  # (question, head, thing): share of its patches
    known = thing.isfinite()
    kept = (left.nan_to_num() * thing.nan_to_num().clamp(min=0)[:, None]).sum(-1)
    of_things = kept.masked_fill(~known.any(1, keepdim=True), torch.nan)
    return {"block_nats": (of_patch[0] * stays).sum(-1), "thinned_nats": (of_patch[1] * stays).sum(-1)} | {
        "thing_nats": of_things
    }


def signal_rows(measured: Measured, facts: Facts, head_rows: bool) -> pa.Table:
    """Returns a row per signal, question that it is about and head, the mean over heads as head -1."""
    parts = []
    for signal in measured.signals:
        known = facts.of(signal.about)
        found = measures(signal.map[:, None], known)
        heads = [MEAN]
        if head_rows and signal.rows.shape[1] > 1:
            single = measures(signal.rows, known, with_kendall=False)
            found = {name: torch.cat([values, single[name]], 1) for name, values in found.items()}
            heads += range(signal.rows.shape[1])
        names = _named(measured, len(heads), signal)
        columns = {name: values.double().flatten().numpy() for name, values in found.items()}
        if not signal.is_attention:
            columns["visual_mass"] = np.full_like(columns["visual_mass"], np.nan)
        parts.append(pa.table({**names, "head": pa.array(heads * len(signal.rows), pa.int16()), **columns}))
    return pa.concat_tables(parts)


def pair_rows(measured: Measured, facts: Facts) -> pa.Table:
    """Returns a row per question and pair of signals that are about it, heads averaged."""
    signals = [signal for signal in measured.signals if signal.name not in _ONE_OF_A_KIND]
    first, second = (list(side) for side in zip(*combinations(range(len(signals)), 2), strict=True))
    maps = torch.zeros(len(measured.samples), len(signals), facts.grid.patches)
    about = np.zeros(maps.shape[:2], bool)
    for number, signal in enumerate(signals):
        maps[signal.about, number], about[signal.about, number] = signal.map, True
    found: dict[str, list[Tensor]] = defaultdict(list)
    for few in maps.split(max(1, _AT_ONCE // (len(first) * maps.shape[2]))):
        a, b = few[:, first], few[:, second]
        found["overlap"].append(top_overlap(a, b, facts.keep))
        found["spearman"].append(spearman(a, b))
        found["kendall"].append(kendall_matrix(few)[:, first, second])
        found["jensen_shannon"].append(jensen_shannon(a, b))
    columns = {name: torch.cat(parts).flatten().numpy() for name, parts in found.items()}
    names = {
        f"{what}_{side}": [getattr(signals[i], field) for i in some] * len(measured.samples)
        for side, some in (("a", first), ("b", second))
        for what, field in (("signal", "name"), ("layers", "layers"))
    }
    table = pa.table({**_names(measured, len(first)), **names, **columns})
    return table.filter(pa.array((about[:, first] & about[:, second]).flatten()))


def curve_rows(measured: Measured, curves: Sequence[tuple[Signal, Curve]], shares: Sequence[float]) -> pa.Table:
    """Returns a row per signal, question that it is about and share of the patches."""
    parts = []
    for signal, found in curves:
        names = _named(measured, len(shares), signal)
        columns = {name: values.double().cpu().flatten().numpy() for name, values in found._asdict().items()}
        parts.append(pa.table({**names, "share": list(shares) * len(signal.rows), **columns}))
    return pa.concat_tables(parts)


def token_rows(measured: Measured, tokens: Float[Tensor, "question token patch"], facts: Facts) -> pa.Table:
    """Returns a row per question, token of its answer, and signal that is compared with this token's row.

    The signals are sums over layers and means over blocks, but for those of the answer itself. What the token's own row
    finds stands beside each of them.

    Args:
        measured: The questions and signals.
        tokens: The rows that produce the first tokens of each answer; NaN behind its end.
        facts: About the questions.
    """
    parts = []
    signals = [one for one in measured.signals if "-" in one.layers and one.name not in ("response", "answer")]
    for token in range(tokens.shape[1]):
        said = tokens[:, token].isfinite().all(1)
        if not said.any():
            break  # no answer of the batch is longer
        rows, known = tokens[said, token], facts.of(said.numpy())
        stays = marked(ranked(rows, facts.keep), rows.shape[1])
        own = {"evidence_recall": evidence_recall(stays, known.share)}
        own |= {"row_correlation": row_correlation(rows, facts.grid)}
        own |= {name: values[:, 0] for name, values in nats(stays[:, None], known).items()}
        for signal in signals:
            maps = signal.map[said]
            near = {"overlap": top_overlap(maps, rows, facts.keep), "spearman": spearman(maps, rows)}
            names = {"signal": [signal.name] * len(rows), "layers": [signal.layers] * len(rows)}
            columns = {name: values.double().numpy() for name, values in (near | own).items()}
            ids = {"sample_id": measured.samples[said.numpy()], "image_id": measured.images[said.numpy()]}
            parts.append(pa.table({**ids, **names, "token": pa.array([token] * len(rows), pa.int16()), **columns}))
    return pa.concat_tables(parts)


def map_rows(measured: Measured) -> pa.Table:
    """Returns a row per signal and question that it is about, heads averaged; controls aside, which anyone can draw."""
    kind = pa.list_(pa.float32())
    return pa.concat_tables(
        [
            pa.table({**_named(measured, 1, signal), "map": pa.array(signal.map.tolist(), kind)})
            for signal in measured.signals
            if signal.name not in ("random", "uniform")
        ]
    )


def _names(
    measured: Measured, times: int, about: Bool[np.ndarray, " question"] | slice = EVERY
) -> dict[str, np.ndarray]:
    """Returns each of these questions so many times."""
    return {
        "sample_id": np.repeat(measured.samples[about], times),
        "image_id": np.repeat(measured.images[about], times),
    }


def _named(measured: Measured, times: int, signal: Signal) -> dict[str, np.ndarray]:
    """Returns each question that the signal is about so many times, with the signal's name and layers."""
    count = times * len(signal.rows)
    names = _names(measured, times, signal.about)
    return names | {"signal": np.repeat(signal.name, count), "layers": np.repeat(signal.layers, count)}


def _of_each(
    metric: Callable[[Tensor, Tensor], Tensor],
    stays: Bool[Tensor, "question head patch"],
    share: Float[Tensor, "row thing patch"],
) -> Float[Tensor, "question head"]:
    return metric(stays.flatten(0, 1), share).unflatten(0, stays.shape[:2])


def _by_block(
    rows: Float[Tensor, "question head patch"], block: Int[Tensor, " patch"]
) -> Float[Tensor, "question head block"]:
    """Returns the mass of each block."""
    return rows.double() @ F.one_hot(block).to(torch.float64)
