"""Data of a comparison: the table of all methods and budgets, and the groups that are compared."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd

from foveate.analysis.cells import BUDGETLESS, PIXEL_FILTERS, Cell, cells_of, read_cells, row_of, runs_of
from foveate.analysis.comparison.split import simple_questions, split_of
from foveate.analysis.held_out import BEST_FILTER, Group
from foveate.analysis.verdicts import holm, paired_p
from foveate.core.progress import bar
from foveate.profiling.flops import prefill_flops
from foveate.profiling.shapes import DecoderShape

ROLES = {
    "control": "control",
    "oracle": "oracle",
    "vision": "before the language model",
    "decoder": "inside the language model",
    "both": "before and inside",
    "shared": "as for the first question",
}
_COSTS = ("equivalent_tokens", "tokens_given", "tokens_left", "prefill_gflops")


class Comparison(NamedTuple):
    """Cells and facts of a finished comparison.

    Attributes:
        cells: The complete cells; their family is the method.
        roles: One of `ROLES` per method, in the order of the table.
        decoder: Shape of the language model.
        patches: Number of patches of an image.
        left_out: Reasons for missing cells, by method and budget.
        not_applicable: Reasons why a method cannot run on this model, by method.
        fallbacks: Methods that read received attention instead of [CLS] attention.
    """

    cells: list[Cell]
    roles: Mapping[str, str]
    decoder: DecoderShape
    patches: int
    left_out: Mapping[str, Mapping[str, str]]
    not_applicable: Mapping[str, str]
    fallbacks: Sequence[str] = ()


def comparison_of(study: optuna.Study) -> Comparison:
    """Returns the comparison that a finished study holds."""
    facts = study.user_attrs
    return Comparison(
        cells_of(study),
        dict(sorted(facts["roles"].items(), key=lambda item: list(ROLES).index(item[1]))),
        DecoderShape(**facts["decoder"]),
        facts["patches"],
        facts["left_out"],
        facts["not_applicable"],
        facts["fallbacks"],
    )


def read_comparison(comparison: Comparison, out: Path) -> dict[Cell, pd.DataFrame]:
    """Reads the records of every cell with the columns of `read_cells` and the costs.

    Args:
        comparison: The comparison.
        out: Folder that holds `records/`.
    """
    return read_cells(comparison.cells, out, lambda records: _costs(records, comparison.decoder))


def comparison_table(frames: Mapping[Cell, pd.DataFrame], roles: Mapping[str, str]) -> pd.DataFrame:
    """Returns one row per method and budget, by falling budget and then by role; `full` is first, `blind` last.

    `budget` is the requested number of equivalent tokens, `equivalent_tokens` the measured one. The other columns are
    those of `ablation_table`, a p value against `full`, `sd_over_seeds`, and the accuracy on simple and difficult
    questions (`comparison.split`); each p column is corrected over all rows. Seeds form one row. The interval of their
    mean covers the choice of images, not that of seeds; `sd_over_seeds` is the standard deviation of their accuracies,
    NaN of one.

    Args:
        frames: The records, as `read_comparison` returns them.
        roles: One of `ROLES` per method, in the order of the table.
    """
    full = next((frame for cell, frame in frames.items() if cell.family == "full"), None)
    random = {cell.keep: frame for cell, frame in frames.items() if cell.family == "random"}
    cells, simple = bar(frames.items(), "cell", "comparing"), simple_questions(frames)
    rows: list[dict[str, Any]] = [
        _row(cell, frame, full, random.get(cell.keep)) | split_of(frame, simple.get(cell.keep)) for cell, frame in cells
    ]
    for row in rows:
        row["role"] = roles[row["method"]]
    order = list(roles)
    rows.sort(key=lambda row: (-row["budget"], order.index(row["method"])))
    table = pd.DataFrame(rows)
    for column in ("p_vs_random_holm", "p_vs_full_holm"):
        table[column] = holm(table[column])
    return table


def groups_of(cells: Iterable[Cell], roles: Mapping[str, str]) -> dict[int, list[Group]]:
    """Returns the groups of a comparison at every budget: methods by where they drop tokens, and controls."""
    cells = list(cells)
    full = [cell for cell in cells if cell.family == "full"]
    groups: dict[int, list[Group]] = {}
    for budget in sorted({cell.keep for cell in cells if cell.family not in BUDGETLESS}, reverse=True):
        here = [cell for cell in cells if cell.keep == budget and cell.family not in BUDGETLESS]
        named = {cell.family: [cell] for cell in here}
        controls = (BEST_FILTER, "random", "uniform", "pool", "downsample")
        by_role = {role: [cell for cell in here if roles[cell.family] == role] for role in ROLES}
        groups[budget] = [
            Group("best before the language model", by_role["vision"], (*controls, "evidence", "full")),
            Group("best inside the language model", by_role["decoder"], (*controls, "random_inside", "full")),
            Group("best before and inside", by_role["both"], (*controls, "evidence", "full")),
            Group(BEST_FILTER, [cell for cell in here if cell.family in PIXEL_FILTERS], ("random",)),
            *(Group(name, named.get(name, [])) for name in (*controls[1:], "random_inside", "evidence")),
            Group("full", full),
        ]
    return groups


def budgets_of(table: pd.DataFrame) -> list[int]:
    """Returns the requested budgets in falling order."""
    return [int(budget) for budget in table.loc[~table["method"].isin(BUDGETLESS), "budget"].unique()]


def shared_budget(table: pd.DataFrame) -> int:
    """Returns the smallest of the budgets that most methods can have."""
    counts = table.loc[~table["method"].isin(BUDGETLESS), "budget"].value_counts()
    return int(min(counts.index[counts == counts.max()]))


def methods_at(table: pd.DataFrame, budget: int, roles: Iterable[str] = ("vision", "decoder", "both")) -> pd.DataFrame:
    """Returns the rows of some roles at a budget, best first."""
    rows = table[(table["budget"] == budget) & table["role"].isin(list(roles)) & ~table["method"].isin(BUDGETLESS)]
    return rows.sort_values("accuracy", ascending=False, kind="stable")


def _costs(records: pd.DataFrame, decoder: DecoderShape) -> dict[str, np.ndarray]:
    blocks = np.stack(records["tokens_per_block"].tolist())
    flops = prefill_flops(blocks, records["text_tokens"].to_numpy(), decoder)
    return dict(zip(_COSTS, (blocks.mean(1), blocks[:, 0], blocks[:, -1], flops / 1e9), strict=True))


def _row(cell: Cell, frame: pd.DataFrame, full: pd.DataFrame | None, random: pd.DataFrame | None) -> dict[str, Any]:
    row = row_of(cell, frame, full, random)
    for name in ("scorer", "family", "layers", "keep", "things_kept"):
        del row[name]
    p = np.nan
    if full is not None and full is not frame:
        p = paired_p(runs_of(frame), runs_of(full), frame["image_id"])
    named = {"method": cell.family, "role": "", "budget": cell.keep}
    runs = runs_of(frame).mean(0)
    spread = {"sd_over_seeds": runs.std(ddof=1) if len(runs) > 1 else np.nan}
    return named | row | spread | {"p_vs_full_holm": p} | {name: frame[name].mean() for name in _COSTS}
