"""From the cells of a comparison to its table: every method at every budget, against full and against random."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd

from analysis.ablation.data import BUDGETLESS, PIXEL_FILTERS, Cell, cells_of, read_cells, row_of, runs_of
from analysis.held_out import Group
from analysis.tables import accuracy, against_full, against_random, grid, percent, tested
from analysis.verdicts import holm, paired_p
from foveate.core.progress import bar
from foveate.profiling.flops import prefill_flops
from foveate.profiling.shapes import DecoderShape

ROLES = {
    "control": "control",
    "oracle": "oracle",
    "vision": "before the language model",
    "decoder": "inside it",
    "both": "before and inside",
}
_COSTS = ("equivalent_tokens", "tokens_given", "tokens_left", "prefill_gflops")
_LEGEND = (
    "n = {n:,} questions about {images:,} images. Accuracy in %, differences in points; in brackets the 95 % interval "
    "over images: Wilson's at the effective number of questions. Differences are paired by question; p: permutation "
    "test over images, Holm-corrected over this table, against random patches (all seeds) and the uncompressed "
    "model each; *better* or *worse* where p is below 0.05, whatever the interval. Tokens are means over the "
    "questions: *equivalent* is the mean over the {blocks} blocks of the language model, *given* enter its first, "
    "*left* its last one. GFLOPs are those of the language model's prefill, 2 x MACs, visual and text tokens, without "
    "the vision tower and without what a method computes to choose."
)


class Comparison(NamedTuple):
    """What a study says besides its records.

    Attributes:
        cells: The complete ones; their family is the method.
        roles: Of every method one of `ROLES`, in the order of the table.
        decoder: Shape of the language model.
        patches: Of an image.
        left_out: By method and budget: why there is no cell.
        not_applicable: By method: why it cannot run on this model.
        fallbacks: Methods that read received attention in the place of [CLS] attention.
    """

    cells: list[Cell]
    roles: Mapping[str, str]
    decoder: DecoderShape
    patches: int
    left_out: Mapping[str, Mapping[str, str]]
    not_applicable: Mapping[str, str]
    fallbacks: Sequence[str] = ()


def comparison_of(study: optuna.Study) -> Comparison:
    """What a finished study holds."""
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
    """Returns the records of every cell with what they cost, as `read_cells`.

    Args:
        comparison: The cells and the language model's shape.
        out: Folder that holds `records/`.
    """
    return read_cells(comparison.cells, out, lambda records: _costs(records, comparison.decoder))


def comparison_table(frames: Mapping[Cell, pd.DataFrame], roles: Mapping[str, str]) -> pd.DataFrame:
    """One row per method and budget, by falling budget and then by role; `full` and `blind` stand first and last.

    `budget` are the equivalent tokens asked for, `equivalent_tokens` those that were measured. The other columns are
    those of `ablation_table`, whose p value is corrected here together with one against `full`, each over all rows.
    Seeds are one row; its interval is that of their mean: it covers the choice of images, not that of seeds.

    Args:
        frames: As `read_comparison` gives them.
        roles: Of every method one of `ROLES`, in the order of the table.
    """
    full = next((frame for cell, frame in frames.items() if cell.family == "full"), None)
    random = {cell.keep: frame for cell, frame in frames.items() if cell.family == "random"}
    told = bar(frames.items(), "cell", "comparing")
    rows = [_row(cell, frame, full, random.get(cell.keep), roles) for cell, frame in told]
    order = list(roles)
    rows.sort(key=lambda row: (-row["budget"], order.index(row["method"])))
    table = pd.DataFrame(rows)
    for column in ("p_vs_random_holm", "p_vs_full_holm"):
        table[column] = holm(table[column])
    return table


def groups_of(cells: Iterable[Cell], roles: Mapping[str, str]) -> dict[int, list[Group]]:
    """Returns what a comparison compares at every budget: the best methods by where they drop tokens, and controls."""
    cells = list(cells)
    full = [cell for cell in cells if cell.family == "full"]
    groups: dict[int, list[Group]] = {}
    for budget in sorted({cell.keep for cell in cells if cell.family not in BUDGETLESS}, reverse=True):
        here = [cell for cell in cells if cell.keep == budget and cell.family not in BUDGETLESS]
        named = {cell.family: [cell] for cell in here}
        controls = ("best pixel filter", "random", "uniform", "pool", "downsample")
        by_role = {role: [cell for cell in here if roles[cell.family] == role] for role in ROLES}
        groups[budget] = [
            Group("best before the language model", by_role["vision"], (*controls, "evidence", "full")),
            Group("best inside it", by_role["decoder"], (*controls, "random_inside", "full")),
            Group("best before and inside", by_role["both"], (*controls, "evidence", "full")),
            Group("best pixel filter", [cell for cell in here if cell.family in PIXEL_FILTERS], ("random",)),
            *(Group(name, named.get(name, [])) for name in (*controls[1:], "random_inside", "evidence")),
            Group("full", full),
        ]
    return groups


def markdown(table: pd.DataFrame, comparison: Comparison, caveat: str = "") -> str:
    """The table for readers, one section per budget, and what is not in it.

    Args:
        table: As `comparison_table` gives it.
        comparison: Of that table.
        caveat: Why there are no verdicts; without one every row has its verdicts.
    """
    size, blocks = table.iloc[0], comparison.decoder.blocks
    legend = _LEGEND.format(n=size["n"], images=size["images"], blocks=blocks)
    parts = [legend, caveat] if caveat else [legend]
    without = table["method"].isin(BUDGETLESS)
    if without.any():
        parts += ["## Whatever the budget", grid([_shown(row, not caveat) for _, row in table[without].iterrows()])]
    for budget in budgets_of(table):
        rows = table[~without & (table["budget"] == budget)]
        shown = [_shown(row, not caveat) for _, row in rows.iterrows()]
        parts += [f"## {share(budget, comparison.patches)}", grid(shown)]
    return "\n\n".join([*parts, *absent(comparison)]) + "\n"


def absent(comparison: Comparison) -> list[str]:
    """What is not in the table and why, as Markdown."""
    left_out = [
        f"- {name} at {budget}: {why}" for name, whys in comparison.left_out.items() for budget, why in whys.items()
    ]
    unable = [f"- {name}: {why}" for name, why in comparison.not_applicable.items()]
    parts: list[str] = []
    if left_out:
        parts += ["## Budgets that a method cannot have", "\n".join(left_out)]
    if unable:
        parts += ["## Methods that cannot run on this model", "\n".join(unable)]
    if comparison.fallbacks:
        told = "This tower has no [CLS] token; the attention that patches receive stands in for its attention in:"
        parts += ["## Fallbacks", f"{told} {', '.join(comparison.fallbacks)}."]
    return parts


def budgets_of(table: pd.DataFrame) -> list[int]:
    """Those that were asked for, falling."""
    return [int(budget) for budget in table.loc[~table["method"].isin(BUDGETLESS), "budget"].unique()]


def share(budget: int, patches: int) -> str:
    """A budget in words: `16 equivalent tokens of 144 (11.1 %)`."""
    return f"{budget} equivalent tokens of {patches} ({percent(budget / patches)} %)"


def shared_budget(table: pd.DataFrame) -> int:
    """The smallest of those budgets that most methods can have."""
    counts = table.loc[~table["method"].isin(BUDGETLESS), "budget"].value_counts()
    return int(min(counts.index[counts == counts.max()]))


def methods_at(table: pd.DataFrame, budget: int, roles: Iterable[str] = ("vision", "decoder", "both")) -> pd.DataFrame:
    """The rows of the methods proper, or of other roles, at a budget: best first."""
    rows = table[(table["budget"] == budget) & table["role"].isin(list(roles)) & ~table["method"].isin(BUDGETLESS)]
    return rows.sort_values("accuracy", ascending=False, kind="stable")


def _costs(records: pd.DataFrame, decoder: DecoderShape) -> dict[str, np.ndarray]:
    blocks = np.stack(records["tokens_per_block"].tolist())
    flops = prefill_flops(blocks, records["text_tokens"].to_numpy(), decoder)
    return dict(zip(_COSTS, (blocks.mean(1), blocks[:, 0], blocks[:, -1], flops / 1e9), strict=True))


def _row(
    cell: Cell, frame: pd.DataFrame, full: pd.DataFrame | None, random: pd.DataFrame | None, roles: Mapping[str, str]
) -> dict[str, Any]:
    row = row_of(cell, frame, full, random)
    for name in ("scorer", "family", "layers", "keep", "things_kept"):
        del row[name]
    p = np.nan
    if full is not None and full is not frame:
        p = paired_p(runs_of(frame), runs_of(full), frame["image_id"])
    named = {"method": cell.family, "role": roles[cell.family], "budget": cell.keep}
    return named | row | {"p_vs_full_holm": p} | {name: frame[name].mean() for name in _COSTS}


def _shown(row: pd.Series, verdicts: bool) -> dict[str, str]:
    seeds = f" ({row['seeds']} seeds)" if row["seeds"] > 1 else ""
    return {
        "method": f"{row['method']}{seeds}",
        "where": ROLES[row["role"]],
        "accuracy": accuracy(row),
        "vs random": against_random(row),
        "p, random": tested(row["delta_vs_random"], row["p_vs_random_holm"], verdicts),
        "vs full": against_full(row),
        "p, full": tested(row["delta_vs_full"], row["p_vs_full_holm"], verdicts),
        "same answer as full": percent(row["agreement_with_full"]),
        "evidence recall": percent(row["evidence_recall"]),
        "equivalent": f"{row['equivalent_tokens']:.1f}",
        "given": f"{row['tokens_given']:.1f}",
        "left": f"{row['tokens_left']:.1f}",
        "GFLOPs": f"{row['prefill_gflops']:.3f}",
    }
