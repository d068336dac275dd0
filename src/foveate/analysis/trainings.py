"""Means of every cell over several trainings of one recipe, with intervals over trainings and images.

An interval over images holds for one checkpoint. A statement about other trainings of the same recipe needs an interval
over trainings as well.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import t

from foveate.analysis.cells import Cell, cells_of, read_cells
from foveate.analysis.statistics import checked
from foveate.analysis.tables import accuracy, between, grid, percent, tested, write_csv, write_text
from foveate.analysis.verdicts import holm
from foveate.core.errors import DataError
from foveate.evaluation import EvalConfig

_ALIKE = ("decoder", "grid", "depth", "feature_layer")  # facts of a study that trainings of one recipe share
_LEGEND = (
    "Mean over {trainings} trainings ({names}) on the same {n:,} questions about {images:,} images; accuracy in %, "
    "differences in points, paired by training and question. Brackets hold 95 % t intervals over trainings and images "
    "(degrees of freedom by Satterthwaite). Verdicts rest on p < 0.05 in a t test, Holm-corrected over the table."
)


class Crossed(NamedTuple):
    """A mean over trainings and questions with its 95 % interval, and the p value of a mean of 0."""

    mean: float
    low: float
    high: float
    p: float


def crossed(values: ArrayLike, images: ArrayLike, *, share: bool = False) -> Crossed:
    """Returns the mean of scores or differences with a t interval for random trainings crossed with random images.

    With u_ti the sum over the questions about image i of (x_tq - mean), over N questions, the squared standard error is
    V = V_T + V_I - V_TI: V_T = sum_t(sum_i u_ti)^2 / (T (T - 1)), V_I = m / (m - 1) sum_i(mean_t u_ti)^2, and
    V_TI = m / (m - 1) sum(r_ti^2) / (T (T - 1)), where r_ti is u_ti minus its row and column means; V_T and V_I both
    contain V_TI. V is at least max(V_T, V_I). Degrees of freedom: V^2 / (V_T^2 / (T - 1) + V_I^2 / (m - 1)), at most
    m - 1. The interval of a share is that of its logit, with the standard error sqrt(V) / (mean (1 - mean)), which
    stays in [0, 1] and has better coverage near 1. Source: Owen 2007 (arXiv 0712.1111); Satterthwaite 1946, Biometrics
    Bulletin 2, 110.

    Args:
        values: (training, question) scores or differences of at least two trainings.
        images: (question) image of each question; at least two images.
        share: Whether values are in [0, 1], so that their mean is a share.

    Raises:
        ValueError: There are fewer than two trainings or images, or a value is NaN.
    """
    values = np.atleast_2d(np.asarray(values, float))
    indices = [checked(row, images)[1] for row in values]
    index = indices[0]
    trainings, questions, sampled = len(values), values.shape[1], int(index.max()) + 1
    if trainings < 2 or sampled < 2:
        raise ValueError(f"{trainings} trainings, {sampled} images: an interval over both takes at least two of each")
    mean = float(values.mean())
    u = np.stack([np.bincount(index, row - mean, sampled) for row in values]) / questions
    rows, columns = u.sum(1), u.mean(0)
    inner = u - rows[:, None] / sampled - columns + u.mean()
    by_training = float((rows**2).sum() / (trainings * (trainings - 1)))
    by_image = float(sampled / (sampled - 1) * (columns**2).sum())
    both = float(sampled / (sampled - 1) * (inner**2).sum() / (trainings * (trainings - 1)))
    variance = max(by_training + by_image - both, by_training, by_image)
    if variance < 1e-24:
        return Crossed(mean, np.nan, np.nan, 1.0 if mean == 0 else np.nan)
    freedom = variance**2 / (by_training**2 / (trainings - 1) + by_image**2 / (sampled - 1))
    freedom = min(max(freedom, 1.0), sampled - 1)
    error = np.sqrt(variance)
    half = float(t.ppf(0.975, freedom) * error)
    p = float(2 * t.sf(abs(mean) / error, freedom))
    if share:
        low, high = (float(expit(logit(mean) + sign * half / (mean * (1 - mean)))) for sign in (-1, 1))
        return Crossed(mean, low, high, p)
    return Crossed(mean, mean - half, mean + half, p)


def trainings_table(frames: Mapping[str, Mapping[Cell, pd.DataFrame]]) -> pd.DataFrame:
    """Returns one row per cell that all trainings have, in the order of the first training.

    Columns: scorer, family, keep, trainings, n, images, accuracy, ci_low, ci_high, the accuracy of each training,
    delta_vs_full and delta_vs_random (at the same budget), each with `_low`, `_high` and `_p_holm`.

    Args:
        frames: Cells of each training, as `read_cells` returns them.

    Raises:
        DataError: There are fewer than two trainings, or they were evaluated on different questions.
    """
    if len(frames) < 2:
        raise DataError(f"{len(frames)} trainings: at least two are needed for an interval between them")
    named = {
        training: {(cell.scorer, cell.keep): (cell, frame) for cell, frame in some.items()}
        for training, some in frames.items()
    }
    first = next(iter(named.values()))
    questions = next(iter(first.values()))[1]["sample_id"]
    for training, some in named.items():
        if not next(iter(some.values()))[1]["sample_id"].equals(questions):
            raise DataError(f"training {training!r} was asked other questions than {next(iter(named))!r}")
    scores = {
        key: np.stack([some[key][1]["score"].to_numpy(float) for some in named.values()])
        for key in first
        if all(key in some for some in named.values())
    }
    full = next((value for key, value in scores.items() if first[key][0].family == "full"), None)
    images, rows = next(iter(first.values()))[1]["image_id"].to_numpy(), []
    for key, values in scores.items():
        others = {"full": full, "random": scores.get(("random", first[key][0].keep))}
        rows.append(_row(first[key][0], dict(zip(named, values, strict=True)), others, images))
    table = pd.DataFrame(rows)
    for name in ("full", "random"):
        table[f"delta_vs_{name}_p_holm"] = holm(table[f"delta_vs_{name}_p_holm"])
    return table


def _row(
    cell: Cell, scores: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray | None], images: np.ndarray
) -> dict[str, Any]:
    """Returns a row of `trainings_table`.

    Args:
        cell: The cell.
        scores: (question) scores by training.
        others: (training, question) scores of `full` and `random`.
        images: (question) image of each question.
    """
    values = np.stack(list(scores.values()))
    mean = crossed(values, images, share=True)
    row = {"scorer": cell.scorer, "family": cell.family, "keep": cell.keep, "trainings": len(values)}
    row |= {"n": values.shape[1], "images": len(np.unique(images)), "accuracy": mean.mean}
    row |= {"ci_low": mean.low, "ci_high": mean.high}
    row |= {training: float(own.mean()) for training, own in scores.items()}
    for name, other in others.items():
        delta = Crossed(np.nan, np.nan, np.nan, np.nan)
        if other is not None and cell.family != name:
            delta = crossed(values - other, images)
        columns = (f"delta_vs_{name}", f"delta_vs_{name}_low", f"delta_vs_{name}_high", f"delta_vs_{name}_p_holm")
        row |= dict(zip(columns, delta, strict=True))
    return row


def agreement_of_order(table: pd.DataFrame, names: Sequence[str], family: str) -> pd.DataFrame:
    """Returns Spearman's rho between the accuracies of a family's scorers in each two trainings: keep, a, b, rho, n.

    Args:
        table: Table of `trainings_table`.
        names: Names of the trainings.
        family: Family of the scorers, such as "single".
    """
    rows = []
    for keep, some in table[table["family"] == family].groupby("keep", sort=False):
        for a, b in combinations(names, 2):
            constant = some[a].nunique() < 2 or some[b].nunique() < 2
            rho = np.nan if constant else float(np.corrcoef(some[a].rank(), some[b].rank())[0, 1])
            rows.append({"keep": keep, "a": a, "b": b, "rho": rho, "n": len(some)})
    return pd.DataFrame(rows, columns=["keep", "a", "b", "rho", "n"])


def report_trainings(studies: Sequence[tuple[EvalConfig, optuna.Study]], models: Mapping[str, str]) -> str:
    """Writes the tables over several trainings, one per data set, and returns their texts.

    There are none for a single model, and none for models of different architectures, which are no trainings of one
    recipe.

    Args:
        studies: The studies of every data set and model, with their configurations.
        models: The models by their short names.
    """
    facts = [[study.user_attrs.get(fact) for fact in _ALIKE] for _, study in studies]
    if len(models) < 2 or any(some != facts[0] for some in facts):
        return ""
    labels = {model: label for label, model in models.items()}
    frames: dict[str, dict[str, dict[Cell, pd.DataFrame]]] = defaultdict(dict)
    folders: dict[str, Path] = {}
    for config, study in studies:
        folders.setdefault(config.data, config.out / study.study_name)
        frames[config.data][labels[config.model]] = read_cells(cells_of(study), config.out)
    return "\n".join(write_trainings(some, folders[data]) for data, some in frames.items())


def write_trainings(frames: Mapping[str, Mapping[Cell, pd.DataFrame]], folder: Path) -> str:
    """Writes `trainings_<names>.csv` and `.md`; returns the text of the latter and its path.

    Args:
        frames: Cells of each training, as `trainings_table` takes them.
        folder: Folder of the first study; created if missing.
    """
    table, names = trainings_table(frames), list(frames)
    file = folder / f"trainings_{'_'.join(names)}"
    text = markdown(table, names)
    write_csv(table, file.with_name(f"{file.name}.csv"))
    write_text(text, file.with_name(f"{file.name}.md"))
    return f"{text}\nTable: {file}.md"


def markdown(table: pd.DataFrame, names: Sequence[str]) -> str:
    """Returns one Markdown table per budget, and the rank correlations of single layers between trainings."""
    size = table.iloc[0]
    parts = [_LEGEND.format(trainings=len(names), names=", ".join(names), n=size["n"], images=size["images"])]
    for keep, rows in table.groupby("keep", sort=False):
        parts += [f"## Patches kept: {keep}", grid([_cells(row, names) for _, row in rows.iterrows()])]
    order = agreement_of_order(table, names, "single")
    if len(order):
        rows = [
            {"patches kept": str(r.keep), "trainings": f"{r.a}, {r.b}", "rho": f"{r.rho:+.2f}", "layers": str(r.n)}
            for r in order.itertuples()
        ]
        parts += ["## Spearman's rho between the accuracies of single layers", grid(rows)]
    return "\n\n".join(parts) + "\n"


def _cells(row: pd.Series, names: Sequence[str]) -> dict[str, str]:
    cells = {"scorer": row["scorer"], "accuracy": accuracy(row)} | {name: percent(row[name]) for name in names}
    for name in ("full", "random"):
        columns = (f"delta_vs_{name}", f"delta_vs_{name}_low", f"delta_vs_{name}_high")
        p = tested(row[columns[0]], row[f"{columns[0]}_p_holm"])
        cells |= {f"vs {name}": between(row, columns), f"p, {name}": p}
    return cells
