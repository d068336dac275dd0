"""Table rows that compare signals with response attention, causal effects and the evidence."""

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

MEAN = -1  # number of the head that stands for the mean over all heads
_UNPAIRED = ("every", "uniform")  # signals left out of the pairs to limit their number
_CHUNK = 2**23  # pairs times patches of one step; larger steps would only need more memory


class CausalEffects(NamedTuple):
    """Effects of patches on the log-probability of the model's own answer, in nats, by three interventions.

    Attributes:
        block: Drop when each block of patches is removed.
        shapley: Shapley-type value of each block: its mean contribution over a few orders.
        thing: Drop when all patches of each needed thing are removed; NaN where no patch is known to show it.
    """

    block: Float[Tensor, "question block"]
    shapley: Float[Tensor, "question block"]
    thing: Float[Tensor, "question thing"]


class Targets(NamedTuple):
    """Quantities that the signals of a batch of questions are compared with.

    Attributes:
        grid: Grid of an image's patches.
        keep: Number of top-scored patches.
        response: Response attention: mean row of the tokens that produce the answer.
        answer: Mean row of the answer's own tokens only; NaN where it has fewer than two.
        share: Share of each patch that shows each needed thing.
        norms: Norms of the patches' features.
        effects: Causal effects on the answer.
        block: The block of each patch.
    """

    grid: Grid
    keep: int
    response: Float[Tensor, "question patch"]
    answer: Float[Tensor, "question patch"]
    share: Float[Tensor, "question thing patch"]
    norms: Float[Tensor, "question patch"]
    effects: CausalEffects
    block: Int[Tensor, " patch"]

    def select(self, questions: Bool[np.ndarray, " question"] | slice) -> "Targets":
        """Returns the targets of some of the questions."""
        names = ("response", "answer", "share", "norms")
        effects = CausalEffects(*(effect[questions] for effect in self.effects))
        return self._replace(effects=effects, **{name: getattr(self, name)[questions] for name in names})


class BatchSignals(NamedTuple):
    """The question and image names of a batch, and its signals."""

    samples: np.ndarray
    images: np.ndarray
    signals: Sequence[Signal]


def measures(
    rows: Float[Tensor, "question head patch"], targets: Targets, with_kendall: bool = True
) -> dict[str, Float[Tensor, "question head"]]:
    """Returns every measure of every row.

    Args:
        rows: Maps of one signal.
        targets: Targets of the same questions.
        with_kendall: Whether Kendall's tau, which takes most of the time, is computed; else it is NaN.
    """
    heads = rows.shape[1]
    kept = marked(ranked(rows.flatten(0, 1), targets.keep), rows.shape[2]).unflatten(0, rows.shape[:2])
    response, answer, norms = (
        side[:, None].expand_as(rows) for side in (targets.response, targets.answer, targets.norms)
    )
    undefined = answer.isnan().any(-1)
    share = targets.share[:, None].expand(-1, heads, -1, -1).flatten(0, 1)
    drop, shapley = (side[:, None].expand(-1, heads, -1) for side in targets.effects[:2])
    within = _by_block(rows, targets.block)
    down, right = centroid_shift(rows, targets.grid)
    unknown = torch.full(rows.shape[:2], torch.nan)
    return {
        "visual_mass": rows.sum(-1),
        "overlap_response": top_overlap(rows, response, targets.keep),
        "spearman_response": spearman(rows, response),
        "kendall_response": kendall(rows, response) if with_kendall else unknown,
        "js_response": jensen_shannon(rows, response),
        "retained_response": retained_mass(response, kept),
        "overlap_answer": top_overlap(rows, answer.nan_to_num(), targets.keep).masked_fill(undefined, torch.nan),
        "spearman_answer": spearman(rows, answer),
        "evidence_recall": _per_head(evidence_recall, kept, share),
        "evidence_precision": _per_head(evidence_precision, kept, share),
        "entropy": entropy(rows),
        "effective_tokens": effective_tokens(rows),
        "raster_correlation": raster_correlation(rows),
        "row_correlation": row_correlation(rows, targets.grid),
        "centroid_down": down,
        "centroid_right": right,
        "last_rows_share": last_rows_share(rows, targets.grid, max(1, targets.grid.rows // 4)),
        "sink_share": sink_share(rows, norms),
        "block_spearman": spearman(within, drop),
        "thinned_spearman": spearman(within, shapley),
        "block_hit": (within.argmax(-1) == drop.argmax(-1)).double(),
        **retained_effects(kept, targets),
    }


def retained_effects(
    kept: Bool[Tensor, "question head patch"], targets: Targets
) -> dict[str, Float[Tensor, "question head"]]:
    """Returns the causal effects of the kept patches on the answer, in nats.

    The effect of a block is divided evenly among its patches, that of a thing among the patches that show it. Negative
    effects of blocks and things count as 0; Shapley values are not clipped, because their sampling errors have both
    signs.

    Args:
        kept: Kept patches of each head.
        targets: Targets of the same questions.
    """
    block, shapley, thing = (effect.double() for effect in targets.effects)
    of_block, of_shapley = (spread(effect, targets.block)[:, None] for effect in (block.clamp(min=0), shapley))
    shown = (targets.share >= SHOWN).double()
    left = kept.double() @ shown.mT / shown.sum(2)[:, None]  # (question, head, thing): share of its patches
    of_thing = (left.nan_to_num() * thing.nan_to_num().clamp(min=0)[:, None]).sum(-1)
    return {
        "block_nats": (of_block * kept).sum(-1),
        "thinned_nats": (of_shapley * kept).sum(-1),
        "thing_nats": of_thing.masked_fill(~thing.isfinite().any(1, keepdim=True), torch.nan),
    }


def signal_rows(batch: BatchSignals, targets: Targets, head_rows: bool) -> pa.Table:
    """Returns a row per signal, question of the signal and head; head -1 is the mean over heads."""
    parts = []
    for signal in batch.signals:
        known = targets.select(signal.about)
        found = measures(signal.map[:, None], known)
        heads = [MEAN]
        if head_rows and signal.rows.shape[1] > 1:
            single = measures(signal.rows, known, with_kendall=False)
            found = {name: torch.cat([values, single[name]], 1) for name, values in found.items()}
            heads += range(signal.rows.shape[1])
        names = _named(batch, len(heads), signal)
        columns = {name: values.double().flatten().numpy() for name, values in found.items()}
        if not signal.is_attention:
            columns["visual_mass"] = np.full_like(columns["visual_mass"], np.nan)
        parts.append(pa.table({**names, "head": pa.array(heads * len(signal.rows), pa.int16()), **columns}))
    return pa.concat_tables(parts)


def pair_rows(batch: BatchSignals, targets: Targets) -> pa.Table:
    """Returns a row per question and pair of signals that are defined for it, averaged over heads."""
    signals = [signal for signal in batch.signals if signal.name not in _UNPAIRED]
    first, second = (list(side) for side in zip(*combinations(range(len(signals)), 2), strict=True))
    maps = torch.zeros(len(batch.samples), len(signals), targets.grid.patches)
    about = np.zeros(maps.shape[:2], bool)
    for number, signal in enumerate(signals):
        maps[signal.about, number], about[signal.about, number] = signal.map, True
    found: dict[str, list[Tensor]] = defaultdict(list)
    for few in maps.split(max(1, _CHUNK // (len(first) * maps.shape[2]))):
        a, b = few[:, first], few[:, second]
        found["overlap"].append(top_overlap(a, b, targets.keep))
        found["spearman"].append(spearman(a, b))
        found["kendall"].append(kendall_matrix(few)[:, first, second])
        found["jensen_shannon"].append(jensen_shannon(a, b))
    columns = {name: torch.cat(parts).flatten().numpy() for name, parts in found.items()}
    names = {
        f"{column}_{side}": [getattr(signals[i], field) for i in some] * len(batch.samples)
        for side, some in (("a", first), ("b", second))
        for column, field in (("signal", "name"), ("layers", "layers"))
    }
    table = pa.table({**_names(batch, len(first)), **names, **columns})
    return table.filter(pa.array((about[:, first] & about[:, second]).flatten()))


def curve_rows(batch: BatchSignals, curves: Sequence[tuple[Signal, Curve]], shares: Sequence[float]) -> pa.Table:
    """Returns a row per signal, question of the signal and share of the patches."""
    parts = []
    for signal, found in curves:
        names = _named(batch, len(shares), signal)
        columns = {name: values.double().cpu().flatten().numpy() for name, values in found._asdict().items()}
        parts.append(pa.table({**names, "share": list(shares) * len(signal.rows), **columns}))
    return pa.concat_tables(parts)


def token_rows(batch: BatchSignals, tokens: Float[Tensor, "question token patch"], targets: Targets) -> pa.Table:
    """Returns a row per question, token of its answer, and signal that is compared with this token's row.

    The signals are the sums over layers and the means over blocks, except those of the answer. Each row repeats the
    measures of the token's own row.

    Args:
        batch: The questions and signals.
        tokens: Rows that produce the first tokens of each answer; NaN after its end.
        targets: Targets of the questions.
    """
    parts = []
    signals = [one for one in batch.signals if "-" in one.layers and one.name not in ("response", "answer")]
    for token in range(tokens.shape[1]):
        present = tokens[:, token].isfinite().all(1)
        if not present.any():
            break  # no answer of the batch is longer
        rows, known = tokens[present, token], targets.select(present.numpy())
        kept = marked(ranked(rows, targets.keep), rows.shape[1])
        own = {"evidence_recall": evidence_recall(kept, known.share)}
        own |= {"row_correlation": row_correlation(rows, targets.grid)}
        own |= {name: values[:, 0] for name, values in retained_effects(kept[:, None], known).items()}
        for signal in signals:
            maps = signal.map[present]
            near = {"overlap": top_overlap(maps, rows, targets.keep), "spearman": spearman(maps, rows)}
            names = {"signal": [signal.name] * len(rows), "layers": [signal.layers] * len(rows)}
            columns = {name: values.double().numpy() for name, values in (near | own).items()}
            ids = _names(batch, 1, present.numpy())
            parts.append(pa.table({**ids, **names, "token": pa.array([token] * len(rows), pa.int16()), **columns}))
    return pa.concat_tables(parts)


def map_rows(batch: BatchSignals) -> pa.Table:
    """Returns a row per signal and question of the signal, averaged over heads, without random and uniform maps."""
    kind = pa.list_(pa.float32())
    return pa.concat_tables(
        [
            pa.table({**_named(batch, 1, signal), "map": pa.array(signal.map.tolist(), kind)})
            for signal in batch.signals
            if signal.name not in ("random", "uniform")
        ]
    )


def _names(
    batch: BatchSignals, times: int, about: Bool[np.ndarray, " question"] | slice = EVERY
) -> dict[str, np.ndarray]:
    """Returns the names of the questions and images, each repeated."""
    return {
        "sample_id": np.repeat(batch.samples[about], times),
        "image_id": np.repeat(batch.images[about], times),
    }


def _named(batch: BatchSignals, times: int, signal: Signal) -> dict[str, np.ndarray]:
    """Returns the names of the questions of a signal, each repeated, with the signal's name and layers."""
    count = times * len(signal.rows)
    names = _names(batch, times, signal.about)
    return names | {"signal": np.repeat(signal.name, count), "layers": np.repeat(signal.layers, count)}


def _per_head(
    metric: Callable[[Tensor, Tensor], Tensor],
    kept: Bool[Tensor, "question head patch"],
    share: Float[Tensor, "row thing patch"],
) -> Float[Tensor, "question head"]:
    return metric(kept.flatten(0, 1), share).unflatten(0, kept.shape[:2])


def _by_block(
    rows: Float[Tensor, "question head patch"], block: Int[Tensor, " patch"]
) -> Float[Tensor, "question head block"]:
    """Returns the sum of each row over each block."""
    return rows.double() @ F.one_hot(block).to(torch.float64)
