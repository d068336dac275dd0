"""Everything that a finished comparison shows, written into one folder."""

from collections.abc import Sequence
from pathlib import Path

import optuna
import pandas as pd

from analysis.ablation.data import Cell
from analysis.ablation.report import Setting, setting_of
from analysis.benchmarks.data import failures, write_numbers
from analysis.comparison.data import (
    Comparison,
    budgets_of,
    comparison_of,
    comparison_table,
    groups_of,
    markdown,
    methods_at,
    read_comparison,
    shared_budget,
)
from analysis.comparison.figures import frontier_figure, frontiers_data, ranking_figure, rankings_data
from analysis.drawing import save_figure
from analysis.findings import findings, page
from analysis.kept_patches import kept_patches_data, kept_patches_figure
from analysis.tables import accuracy, paragraphs, write_table
from foveate.data.load import parsed
from foveate.evaluation import EvalConfig
from foveate.studies.study import keep_artifacts


def report(study: optuna.Study, config: EvalConfig) -> str:
    """Writes the report of a finished comparison beside its study and into its artifacts; returns what to print."""
    folder = config.out / study.study_name
    comparison = comparison_of(study)
    answer = write_report(comparison, config.out, folder, setting_of(study, config))
    numbers = write_numbers(parsed(config.data)[0], comparison.cells, config.out, folder)
    answer = f"{answer}\n\n{numbers}" if numbers else answer
    keep_artifacts(study, folder)
    return f"{answer}\n\nTables and figures: {folder}"


def write_report(comparison: Comparison, out: Path, folder: Path, setting: Setting) -> str:
    """Writes table.csv, table.md, frontier.png, ranking.png and kept_patches.png; returns what to print.

    Args:
        comparison: As `comparison_of` gives it.
        out: Folder that holds `records/`.
        folder: Where to write.
        setting: Model and images.
    """
    frames = read_comparison(comparison, out)
    table = comparison_table(frames, comparison.roles)
    failed = failures(comparison.cells, out)
    found = findings(frames, table, groups_of(frames, comparison.roles), comparison.roles)
    write_table(table, folder, page(markdown(table, comparison, found.doubt), found, failed))
    if panels := frontiers_data(table):
        save_figure(frontier_figure(panels, setting.source), folder / "frontier.png")
    if rankings := rankings_data(table):
        save_figure(ranking_figure(rankings, setting.source), folder / "ranking.png")
        budget = shared_budget(table)
        if setting.images:
            columns = telling_cells(table, comparison.cells)
            data = kept_patches_data(columns, out, setting.images, setting.grid, setting.evidence)
            kept = f"{budget} equivalent tokens of {comparison.patches} patches: those that remain to the end"
            save_figure(kept_patches_figure(data, kept), folder / "kept_patches.png")
    best = [found.printed(budget) for budget in budgets_of(table)]
    unable = f"Cannot run on this model: {', '.join(comparison.not_applicable)}; table.md says why."
    best.append(unable if comparison.not_applicable else "")
    return paragraphs(found.doubt, found.first, summary(table, list(comparison.roles)), *best, failed)


def telling_cells(table: pd.DataFrame, cells: Sequence[Cell]) -> list[Cell]:
    """The cells worth an image: at the shared budget the best methods of every role, the worst, controls, evidence."""
    budget = shared_budget(table)
    wanted = ["full"]
    for role in ("vision", "decoder", "both"):
        names = methods_at(table, budget, (role,))["method"].tolist()
        wanted += [*names[:2], *names[-1:]] if role == "vision" else names[:1]
    wanted += ["random", "uniform", "evidence"]
    found = {cell.family: cell for cell in reversed(cells) if cell.keep == budget or cell.family == "full"}
    return [found[name] for name in dict.fromkeys(wanted) if name in found]


def summary(table: pd.DataFrame, order: list[str]) -> str:
    """Accuracy with interval of every method (rows) at every budget (columns), for a terminal."""
    shown = table.assign(accuracy=[accuracy(row) for _, row in table.iterrows()])
    wide = shown.pivot(index="method", columns="budget", values="accuracy")
    return wide.reindex(index=order)[sorted(wide.columns, reverse=True)].fillna("").to_string()
