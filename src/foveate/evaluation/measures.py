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

from foveate.core.types import Grid
from foveate.evaluation.causal import Curve
from foveate.evaluation.signals import EVERY, Signal
from foveate.functional.ranking import marked, ranked
from foveate.functional.regions import spread
from foveate.metrics.bias import (
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
from foveate.metrics.evidence import evidence_precision, evidence_recall

MEAN = -1  # as number of a head: the mean over all
_ONE_OF_A_KIND = ("every", "uniform")  # signals that no pair is made of, for pairs are many
_AT_ONCE = 2**23  # pairs times patches; more would only cost memory


class Facts(NamedTuple):
    """What signals about a batch of questions are measured against.

    Attributes:
        grid: Of a picture.
        keep: How many patches the top are.
        response: What the answer looks at.
        share: Which patches show each needed thing.
        norms: Of the features.
        drop: By how much the answer's log-probability falls without each block.
        block: The block of each patch.
    """

    grid: Grid
    keep: int
    response: Float[Tensor, "question patch"]
    share: Float[Tensor, "question thing patch"]
    norms: Float[Tensor, "question patch"]
    drop: Float[Tensor, "question block"]
    block: Int[Tensor, " patch"]

    def of(self, questions: Bool[np.ndarray, " question"] | slice) -> "Facts":
        """About some of the questions."""
        response, share, norms, drop = (x[questions] for x in (self.response, self.share, self.norms, self.drop))
        return self._replace(response=response, share=share, norms=norms, drop=drop)


class Measured(NamedTuple):
    """The questions of a batch, and the signals about them."""

    samples: np.ndarray
    images: np.ndarray
    signals: Sequence[Signal]


def measures(
    rows: Float[Tensor, "question head patch"], facts: Facts, with_kendall: bool = True
) -> dict[str, Float[Tensor, "question head"]]:
    """Every measure of every row.

    Args:
        rows: Of one signal.
        facts: About the same questions.
        with_kendall: Whether tau is wanted, which takes most of the time; else it is NaN.
    """
    heads = rows.shape[1]
    stays = marked(ranked(rows.flatten(0, 1), facts.keep), rows.shape[2]).unflatten(0, rows.shape[:2])
    response, norms = (side[:, None].expand_as(rows) for side in (facts.response, facts.norms))
    share = facts.share[:, None].expand(-1, heads, -1, -1).flatten(0, 1)
    falls = spread(facts.drop.clamp(min=0), facts.block)[:, None].expand_as(rows)
    drop = facts.drop[:, None].expand(-1, heads, -1)
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
        "causal_spearman": spearman(within, drop),
        "causal_mass": retained_mass(falls, stays),
        "causal_hit": (within.argmax(-1) == drop.argmax(-1)).double(),
    }


def signal_rows(measured: Measured, facts: Facts, head_rows: bool) -> pa.Table:
    """A row per signal, question that it is about and head, the mean over heads as head -1."""
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
    """A row per question and pair of signals that are about it, heads averaged."""
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
    """A row per signal, question that it is about and share of the patches."""
    parts = []
    for signal, found in curves:
        names = _named(measured, len(shares), signal)
        columns = {name: values.double().cpu().flatten().numpy() for name, values in found._asdict().items()}
        parts.append(pa.table({**names, "share": list(shares) * len(signal.rows), **columns}))
    return pa.concat_tables(parts)


def map_rows(measured: Measured) -> pa.Table:
    """A row per signal and question that it is about, heads averaged; controls aside, which anyone can draw."""
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
    """Each of these questions so many times."""
    return {
        "sample_id": np.repeat(measured.samples[about], times),
        "image_id": np.repeat(measured.images[about], times),
    }


def _named(measured: Measured, times: int, signal: Signal) -> dict[str, np.ndarray]:
    """Each question that the signal is about so many times, with the signal's name and layers."""
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
    """The mass of each block."""
    return rows.double() @ F.one_hot(block).to(torch.float64)
