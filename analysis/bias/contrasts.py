"""Paired differences between the signals of a bias measurement, and what is sure of them."""

import numpy as np
import pandas as pd

from analysis.bias.data import numbered
from analysis.bias.measures import AREAS, NEAR, PLACELESS, RANGES, RATIOS
from analysis.bias.signals import ANSWER, EVIDENCE, ORDER, PROMPTS, RANDOM, RESPONSE, RESPONSES, Key, is_whole
from analysis.ratios import ratio_interval
from analysis.statistics import Interval, difference_interval
from analysis.verdicts import holm, paired_p
from foveate.core.progress import bar

SUM = "cls sum"
WORTHS = ("evidence_recall", "block_share", "thinned_share", "thing_share", *AREAS)
LEANS = ("row_correlation", "last_rows_share")
_NEAR = (*NEAR[RESPONSE], *NEAR[ANSWER])
_CONTRASTS = (  # of every signal of that name with every one of that; of the response only what all blocks say
    *((SUM, prompt, (*_NEAR, *PLACELESS, *WORTHS)) for prompt in PROMPTS),
    *((name, target, (*LEANS, *WORTHS)) for name in (SUM, *PROMPTS) for target in RESPONSES),
    *((name, RANDOM, _NEAR) for name in (SUM, *PROMPTS)),
    *((name, EVIDENCE, LEANS) for name in (SUM, *PROMPTS, *RESPONSES)),  # things may lie low or high themselves
    *((name, RANDOM, WORTHS) for name in ORDER if name != RANDOM),
)


def contrasts(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns differences `signal_a - signal_b`, paired by question: interval over images, permutation p, Holm.

    Random maps are several runs of one side, one per seed, which the test permutes one by one. Of a ratio of sums the
    difference is that of the ratios, and the test is about the sums.

    Args:
        frame: As `analysis.bias.data.headline` gives it.
    """
    questions = numbered(frame).drop_duplicates("sample_id").set_index("sample_id")
    images = questions["image_id"].to_numpy()
    wanted = dict.fromkeys(measure for _, _, measures in _CONTRASTS for measure in measures)
    values = {measure: _by_signal(frame, RATIOS.get(measure, (measure,))[0], questions.index) for measure in wanted}
    rows = []
    for first, second, measures in bar(_CONTRASTS, "contrast", "comparing"):
        for measure in measures:
            base = questions[RATIOS[measure][1]].to_numpy(float) if measure in RATIOS else None
            for a in (one for one in values[measure] if one[0] == first and is_whole(one)):
                for b in (one for one in values[measure] if one[0] == second and is_whole(one)):
                    found = _contrast(values[measure][a], values[measure][b], images, measure, base)
                    rows += [(measure, *a, *b, *found)] if found else []
    columns = ["measure", "signal_a", "layers_a", "signal_b", "layers_b", "mean_a", "mean_b"]
    table = pd.DataFrame(rows, columns=[*columns, "difference", "low", "high", "p", "n", "images"])
    return table.assign(p_holm=holm(table["p"]))


def _contrast(
    a: np.ndarray, b: np.ndarray, images: np.ndarray, measure: str, base: np.ndarray | None
) -> tuple[float, ...]:
    """Returns means, difference, interval, p, n and images of a row; empty where no question has both sides.

    Args:
        a: (question, run).
        b: Likewise.
        images: Of the questions.
        measure: Its name.
        base: Of a ratio, what its sums are a share of.
    """
    sides = [a, b] if base is None else [a, b, base[:, None]]
    known = ~np.isnan(np.concatenate(sides, 1)).any(1)
    if not known.any():
        return ()
    a, b, where = a[known], b[known], images[known]
    of_a, of_b = a.mean(1), b.mean(1)
    if base is None:
        total, (difference, low, high, n) = len(where), _difference(of_a, of_b, where, measure)
    else:
        total, (difference, low, high, n) = base[known].sum(), ratio_interval(of_a - of_b, base[known], where)
    means = float(of_a.sum() / total), float(of_b.sum() / total)
    return *means, difference, low, high, paired_p(a, b, where), n, len(np.unique(where))


def _difference(a: np.ndarray, b: np.ndarray, images: np.ndarray, measure: str) -> Interval:
    low, high = RANGES.get(measure, (-np.inf, np.inf))
    return difference_interval(a, b, images, half_range=high - low)


def _by_signal(frame: pd.DataFrame, measure: str, samples: pd.Index) -> dict[Key, np.ndarray]:
    """Returns the values of every signal that has the measure, (question, run), question by question in this order.

    A signal is one run, and the seeds of random maps are runs of one signal.
    """
    wide = frame.pivot(index="sample_id", columns=["signal", "layers"], values=measure).reindex(samples)
    known = wide.dropna(axis="columns", how="all")
    found: dict[Key, np.ndarray] = {}
    for signal, layers in known.columns:
        key = (str(signal), "" if signal == RANDOM else str(layers))
        column = known[signal, layers].to_numpy(float)[:, None]
        found[key] = np.concatenate([found[key], column], 1) if key in found else column
    return found
