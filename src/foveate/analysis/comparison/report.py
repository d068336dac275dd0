"""Report of a finished comparison: tables and figures in one folder."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import optuna
import pandas as pd

from foveate.analysis.benchmark_numbers import write_numbers
from foveate.analysis.cells import BUDGETLESS, Cell, failures
from foveate.analysis.comparison.data import (
    ROLES,
    Comparison,
    budgets_of,
    comparison_of,
    comparison_table,
    groups_of,
    methods_at,
    read_comparison,
    shared_budget,
)
from foveate.analysis.comparison.figures import frontier_figure, frontiers_data, ranking_figure, rankings_data
from foveate.analysis.comparison.pairs import write_pairs
from foveate.analysis.comparison.split import LEGEND, split_cells, split_note
from foveate.analysis.contents import content_tables
from foveate.analysis.drawing import save_figure
from foveate.analysis.held_out import held_out
from foveate.analysis.kept_frames import kept_frames_figure
from foveate.analysis.kept_patches import Setting, kept_patches_data, kept_patches_figure, setting_of
from foveate.analysis.tables import (
    Summary,
    accuracy,
    against_full,
    against_random,
    grid,
    paragraphs,
    percent,
    tested,
    write_table,
)
from foveate.analysis.worst_kinds import WorstKinds, write_worst_kinds
from foveate.data.names import shown_name
from foveate.evaluation import EvalConfig
from foveate.studies.notes import note_study
from foveate.studies.study import keep_artifacts

_LEGEND = (
    "n = {n:,} questions about {images:,} images; accuracy in %, differences in points, paired by question. Brackets "
    "hold 95 % intervals over images (Wilson's at the effective number of questions). Verdicts rest on p < 0.05 in a "
    "permutation test over images against random patches (all seeds) and `full`, each Holm-corrected over the table."
)
_COLUMNS = (
    "Visual tokens are means over the questions: *equivalent* over the {blocks} blocks of the language model, *given* "
    "in its first block, *left* in its last. *GFLOPs*: prefill of the language model (2 x MACs, visual and text "
    "tokens), without the vision tower and the cost of choosing."
)


def report(study: optuna.Study, config: EvalConfig, pairs: Sequence[tuple[str, str]] = ()) -> str:
    """Writes the report of a finished comparison beside its study and into its artifacts; returns the text to print.

    Args:
        study: The study.
        config: Its configuration.
        pairs: See `pairs_table`.
    """
    folder = config.out / study.study_name
    comparison = comparison_of(study)
    written = write_report(comparison, config.out, folder, setting_of(study, config), pairs)
    numbers = write_numbers(shown_name(config.data), comparison.cells, config.out, folder)
    keep_artifacts(study, folder)
    note_study(study, written.finding)
    return paragraphs(written.text, numbers, f"Tables and figures: {folder}")


def write_report(
    comparison: Comparison, out: Path, folder: Path, setting: Setting, pairs: Sequence[tuple[str, str]] = ()
) -> Summary:
    """Writes tables and figures; returns what they say.

    These are table.csv, table.md, with several kinds of questions worst_kinds.csv, on scenes table_things.csv and
    table_details.csv, frontier.png, ranking.png, kept_patches.png, and with pairs pairs.csv and pairs.md.

    Args:
        comparison: The comparison, as `comparison_of` returns it.
        out: Folder that holds `records/`.
        folder: Folder to write to.
        setting: Model and images.
        pairs: See `pairs_table`.
    """
    frames = read_comparison(comparison, out)
    table = comparison_table(frames, comparison.roles)
    failed = failures(comparison.cells, out)
    found = held_out(frames, table, groups_of(frames, comparison.roles), comparison.roles)
    table_of = partial(comparison_table, roles=comparison.roles)
    contents = content_tables(frames, table_of, folder, not found.caveat)
    worst = write_worst_kinds(frames, folder, "family")
    notes = {budget: split_note(budget, frames) for budget in budgets_of(table)}
    text = paragraphs(markdown(table, comparison, worst, found.caveat, notes), contents)
    write_table(table, folder, found.page(text, failed))
    if panels := frontiers_data(table):
        save_figure(frontier_figure(panels, setting.source), folder / "frontier.png")
    if rankings := rankings_data(table):
        save_figure(ranking_figure(rankings, setting.source), folder / "ranking.png")
        shown = example_cells(table, comparison.cells)
        if setting.videos and (sheet := kept_frames_figure(shown, out, setting.videos)):
            save_figure(sheet, folder / "kept_patches.png")
        if setting.images:
            data = kept_patches_data(shown, out, setting)
            kept = f"{shared_budget(table)} equivalent tokens of {comparison.patches} patches, after the last block"
            save_figure(kept_patches_figure(data, kept), folder / "kept_patches.png")
    unable = f"Cannot run on this model: {', '.join(comparison.not_applicable)} (reasons in table.md)."
    named = write_pairs(frames, pairs, folder, found.caveat)
    missing = [_impossible(comparison), unable if comparison.not_applicable else "", failed]
    finding = paragraphs(found.caveat, found.markdown(), named, *missing)
    return Summary(paragraphs(summary(table, list(comparison.roles)), worst.text), finding)


def markdown(
    table: pd.DataFrame,
    comparison: Comparison,
    worst: WorstKinds,
    caveat: str = "",
    notes: Mapping[int, str] | None = None,
) -> str:
    """Returns one Markdown table per budget, and lists of missing methods and budgets.

    Args:
        table: Table of `comparison_table`.
        comparison: The comparison.
        worst: The worst kind of questions of every row.
        caveat: Reason why there are no verdicts, or an empty string.
        notes: By budget, a note on its simple and difficult questions.
    """
    size = table.iloc[0]
    parts = [_LEGEND.format(n=size["n"], images=size["images"]), _COLUMNS.format(blocks=comparison.decoder.blocks)]
    parts += [worst.legend, LEGEND if table["simple_n"].notna().any() else "", caveat]
    without = table["method"].isin(BUDGETLESS)
    if without.any():
        parts += ["## Without a budget", grid([_cells(row, worst, not caveat) for _, row in table[without].iterrows()])]
    for budget in budgets_of(table):
        rows = table[~without & (table["budget"] == budget)]
        share = f"{budget} equivalent tokens of {comparison.patches} ({percent(budget / comparison.patches)} %)"
        rows_of = grid([_cells(row, worst, not caveat) for _, row in rows.iterrows()])
        parts += [f"## {share}", (notes or {}).get(budget, ""), rows_of]
    return paragraphs(*parts, *absent(comparison)) + "\n"


def example_cells(table: pd.DataFrame, cells: Sequence[Cell]) -> list[Cell]:
    """Returns the cells of the example figure at the shared budget: methods of every role, controls and evidence."""
    budget = shared_budget(table)
    wanted = ["full"]
    for role in ("vision", "decoder", "both"):
        names = methods_at(table, budget, (role,))["method"].tolist()
        wanted += [*names[:2], *names[-1:]] if role == "vision" else names[:1]
    wanted += ["random", "uniform", "fewer_frames", "evidence"]  # about images there is none for frames
    found = {cell.family: cell for cell in reversed(cells) if cell.keep == budget or cell.family == "full"}
    return [found[name] for name in dict.fromkeys(wanted) if name in found]


def summary(table: pd.DataFrame, order: list[str]) -> str:
    """Returns the accuracy of every method (rows) at every budget (columns) with intervals, for a terminal."""
    shown = table.assign(accuracy=[accuracy(row) for _, row in table.iterrows()])
    wide = shown.pivot(index="method", columns="budget", values="accuracy")
    return wide.reindex(index=order)[sorted(wide.columns, reverse=True)].fillna("").to_string()


def _impossible(comparison: Comparison) -> str:
    """Returns the budgets that were not evaluated and why, for a terminal; an empty string if there are none."""
    lines = _left_out(comparison)
    return f"Not evaluated, because the method cannot have the budget: {'; '.join(lines)}." if lines else ""


def _left_out(comparison: Comparison) -> list[str]:
    return [f"{name} at {budget}: {why}" for name, whys in comparison.left_out.items() for budget, why in whys.items()]


def absent(comparison: Comparison) -> list[str]:
    """Returns Markdown sections of missing budgets and methods, with reasons, and of fallbacks."""
    left_out = [f"- {line}" for line in _left_out(comparison)]
    unable = [f"- {name}: {why}" for name, why in comparison.not_applicable.items()]
    parts: list[str] = []
    if left_out:
        parts += ["## Budgets that a method cannot have", "\n".join(left_out)]
    if unable:
        parts += ["## Methods that cannot run on this model", "\n".join(unable)]
    if comparison.fallbacks:
        names = ", ".join(comparison.fallbacks)
        parts += ["## Fallbacks", f"Received attention replaces [CLS] attention, which this tower lacks, in: {names}."]
    return parts


def _cells(row: pd.Series, worst: WorstKinds, verdicts: bool) -> dict[str, str]:
    seeds = f" ({row['seeds']} seeds)" if row["seeds"] > 1 else ""
    return {
        "method": f"{row['method']}{seeds}",
        "where": ROLES[row["role"]],
        "accuracy": accuracy(row),
        **worst.cells(row["method"], row["budget"]),
        "SD over seeds": percent(row["sd_over_seeds"]),
        "vs random": against_random(row),
        "p, random": tested(row["delta_vs_random"], row["p_vs_random_holm"], verdicts),
        "vs full": against_full(row),
        "p, full": tested(row["delta_vs_full"], row["p_vs_full_holm"], verdicts),
        **split_cells(row),
        "same answer as full": percent(row["agreement_with_full"]),
        "evidence recall": percent(row["evidence_recall"]),
        "equivalent": f"{row['equivalent_tokens']:.1f}",
        "given": f"{row['tokens_given']:.1f}",
        "left": f"{row['tokens_left']:.1f}",
        "GFLOPs": f"{row['prefill_gflops']:.3f}",
    }
