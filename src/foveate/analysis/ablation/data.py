"""Data of an ablation: the table of all cells, accuracy by question type, and answers that a sum of layers repairs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from foveate.analysis.cells import BUDGETLESS, PIXEL_FILTERS, Cell, accuracy_of, read_cells, row_of, runs_of
from foveate.analysis.held_out import BEST_FILTER, Group
from foveate.analysis.statistics import difference_interval, mean_interval
from foveate.analysis.verdicts import holm, paired_p
from foveate.core.errors import DataError
from foveate.core.progress import bar


class Repairs(NamedTuple):
    """Answers of single layers compared with those of a sum of layers.

    Other scorers also answer some questions that a layer gets wrong, because a layer's failures are partly chance
    (regression to the mean). Therefore two controls answer the same questions: the other single layer with the highest
    accuracy, and random patches.

    Attributes:
        table: One row per single layer: layer; shares of all questions that are right with both (`kept`), only with
            the sum (`repaired`), with neither (`lost`) and only with the layer (`broken`); number of `wrong`
            questions; shares of these that the sum (`of_wrong`), the other layer (`other`, with `other_layer`) and
            random patches (`random`, mean over seeds) answer, each with `_low` and `_high`; differences of the sum
            from both controls (`over_other`, `over_random`) with `_low`, `_high` and `_p` (paired over images,
            Holm-corrected over the table). NaN where unknown.
        layers: Layers of the sum.
        keep: Patches kept.
        n: Number of questions.
        images: Number of images.
        seeds: Number of seeds of random patches.
    """

    table: pd.DataFrame
    layers: str
    keep: int
    n: int
    images: int
    seeds: int


def ablation_table(frames: Mapping[Cell, pd.DataFrame]) -> pd.DataFrame:
    """Returns one row per scorer and budget, by falling budget, then in the order of `FAMILIES` and layers.

    Accuracy is the mean score. `delta_vs_full` and `delta_vs_random` (same budget, mean over seeds) are paired by
    question; `p_vs_random_holm` is `paired_p` against all seeds, corrected over the table. The interval of `random`
    is that of the mean over its seeds; it covers the choice of images, not that of seeds. Values are NaN if the control
    is missing or is the row itself.

    Args:
        frames: The records, as `read_cells` returns them.
    """
    full = next((frame for cell, frame in frames.items() if cell.family == "full"), None)
    random = {cell.keep: frame for cell, frame in frames.items() if cell.family == "random"}
    cells = bar(frames.items(), "cell", "comparing")
    table = pd.DataFrame([row_of(cell, frame, full, random.get(cell.keep)) for cell, frame in cells])
    table["p_vs_random_holm"] = holm(table["p_vs_random_holm"])
    return table


def per_kind_table(cells: Iterable[Cell], out: Path) -> pd.DataFrame:
    """Returns the accuracy of every cell by question type: scorer, keep, kind, n, images, accuracy, ci_low, ci_high."""
    rows = []
    for cell, frame in read_cells(cells, out).items():
        for kind, part in frame.groupby("kind", sort=True):
            rows.append({"scorer": cell.scorer, "keep": cell.keep, "kind": kind} | accuracy_of(part))
    return pd.DataFrame(rows)


def groups_of(cells: Iterable[Cell], feature_layer: int) -> dict[int, list[Group]]:
    """Returns the groups of an ablation at every budget: layers and sums, each with the controls."""
    groups: dict[int, list[Group]] = {}
    full = [cell for cell in cells if cell.family == "full"]
    for keep in dict.fromkeys(cell.keep for cell in cells if cell.family not in BUDGETLESS):
        here = [cell for cell in cells if cell.keep == keep and cell.family not in BUDGETLESS]

        def of(*families: str, here: Sequence[Cell] = here) -> list[Cell]:
            return [cell for cell in here if cell.family in families]

        controls = (BEST_FILTER, "random", "uniform", "full")
        features = [cell for cell in of("single") if cell.first_layer == feature_layer]
        groups[keep] = [
            Group("best single layer", of("single"), controls),
            Group("layer that writes the features", features, ("best single layer", *controls)),
            Group("best sum that ends there", of("suffix"), ("best single layer", *controls)),
            Group("sum of all layers", of("all"), ("best single layer", *controls)),
            Group(BEST_FILTER, of(*PIXEL_FILTERS), ("random",)),
            Group("random", of("random")),
            Group("uniform", of("uniform")),
            Group("full", full),
        ]
    return groups


def repairs_data(cells: Iterable[Cell], out: Path, keep: int, total: str = "cls[all]") -> Repairs:
    """Counts the answers, right at a score of 1, of every single layer and of a sum at the same budget.

    Args:
        cells: Cells of an ablation.
        out: Folder that holds `records/`.
        keep: The budget.
        total: Scorer that sums layers.

    Raises:
        DataError: The sum or every single layer is missing at this budget.
    """
    here = [
        cell for cell in cells if cell.keep == keep and (cell.family in ("single", "random") or cell.scorer == total)
    ]
    frames = read_cells(here, out, lambda records: {"right": (records["score"] == 1).to_numpy(float)})
    whole = next((cell for cell in frames if cell.scorer == total), None)
    singles = [cell for cell in frames if cell.family == "single"]
    if whole is None or not singles:
        known = ", ".join(dict.fromkeys(cell.scorer for cell in here)) or "neither"
        raise DataError(
            f"{total} and single layers are needed at {keep} patches, the study has {known}: run `make ablate`"
        )
    random = next((frame for cell, frame in frames.items() if cell.family == "random"), None)
    rows = [_repairs_row(cell, {one: frames[one] for one in singles}, frames[whole], random) for cell in singles]
    table, p = pd.DataFrame(rows), ["over_other_p", "over_random_p"]
    table[p] = holm(table[p].to_numpy(float).ravel()).reshape(-1, 2)
    images = frames[whole]["image_id"]
    seeds = 0 if random is None else int(random["seeds"].iloc[0])
    return Repairs(table, whole.layers, keep, len(images), images.nunique(), seeds)


def _repairs_row(
    cell: Cell, singles: Mapping[Cell, pd.DataFrame], whole: pd.DataFrame, random: pd.DataFrame | None
) -> dict[str, float]:
    """Returns a row of `Repairs.table`, its p values not corrected.

    Args:
        cell: The single layer.
        singles: Records of all single layers.
        whole: Records of the sum.
        random: Records of random patches, if any.
    """
    alone, by_sum = singles[cell]["right"] == 1, whole["right"] == 1
    outcomes = {
        "kept": alone & by_sum,
        "repaired": ~alone & by_sum,
        "lost": ~alone & ~by_sum,
        "broken": alone & ~by_sum,
    }
    row = {"layer": cell.first_layer, **{name: float(which.mean()) for name, which in outcomes.items()}}
    other = max((one for one in singles if one != cell), key=lambda one: singles[one]["right"].mean(), default=None)
    row |= {"wrong": int((~alone).sum()), "other_layer": np.nan if other is None else other.first_layer}
    row |= dict(zip(("of_wrong", "of_wrong_low", "of_wrong_high"), _rate(whole[~alone]), strict=True))
    for name, control in (("other", None if other is None else singles[other]), ("random", random)):
        rate, over = (np.nan,) * 3, (np.nan,) * 4
        if control is not None and not alone.all():
            wrong, images = control[~alone], whole["image_id"][~alone]
            pair = whole["right"][~alone], wrong["right"]
            runs = runs_of(wrong) == 1 if name == "random" else pair[1]
            rate, over = _rate(wrong), (*difference_interval(*pair, images)[:3], paired_p(pair[0], runs, images))
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), rate, strict=True))
        row |= {f"over_{name}{end}": value for end, value in zip(("", "_low", "_high", "_p"), over, strict=True)}
    return row


def _rate(frame: pd.DataFrame) -> tuple[float, ...]:
    """Returns the share of right answers with its interval; NaN without questions."""
    return mean_interval(frame["right"], frame["image_id"])[:3] if len(frame) else (np.nan,) * 3
