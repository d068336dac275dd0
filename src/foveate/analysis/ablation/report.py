"""Report of a finished ablation: tables and figures in one folder."""

from collections.abc import Sequence
from pathlib import Path

import optuna
import pandas as pd

from foveate.analysis.ablation.data import Repairs, ablation_table, groups_of
from foveate.analysis.ablation.figures import (
    accuracy_by_layer_data,
    accuracy_by_layer_figure,
    frontier_data,
    frontier_figure,
)
from foveate.analysis.cells import Cell, best_scorer, cells_of, failures, read_cells, reference_budget
from foveate.analysis.contents import content_tables
from foveate.analysis.drawing import save_figure
from foveate.analysis.held_out import held_out
from foveate.analysis.kept_patches import Setting, kept_patches_data, kept_patches_figure, setting_of
from foveate.analysis.tables import (
    Summary,
    accuracy,
    against_full,
    against_random,
    between,
    grid,
    paragraphs,
    percent,
    tested,
    write_table,
)
from foveate.analysis.worst_kinds import WorstKinds, write_worst_kinds
from foveate.evaluation import EvalConfig
from foveate.studies.notes import note_study
from foveate.studies.study import keep_artifacts

_LEGEND = (
    "n = {n:,} questions about {images:,} images; accuracy in %, differences in points, paired by question. Brackets "
    "hold 95 % intervals over images (Wilson's at the effective number of questions). Verdicts rest on p < 0.05 in a "
    "permutation test over images against random patches (all seeds), Holm-corrected over the table."
)
_REPAIRS_LEGEND = (
    "Share of each layer's wrong answers that other patches get right, at {keep} patches: n = {n:,} questions about "
    "{images:,} images. Differences are those of the sum of layers {layers}, in points, paired by question. Verdicts "
    "rest on p < 0.05 in a permutation test over images, Holm-corrected over the table."
)


def report(study: optuna.Study, config: EvalConfig) -> str:
    """Writes the report of a finished ablation beside its study and into its artifacts; returns the text to print."""
    folder = config.out / study.study_name
    written = write_report(cells_of(study), config.out, folder, setting_of(study, config))
    keep_artifacts(study, folder)
    note_study(study, written.finding)
    return f"{written.text}\n\nTables and figures: {folder}"


def write_report(cells: Sequence[Cell], out: Path, folder: Path, setting: Setting) -> Summary:
    """Writes tables and figures; returns what they say.

    These are table.csv, table.md, with several kinds of questions worst_kinds.csv, on scenes table_things.csv and
    table_details.csv, accuracy_by_layer.png, frontier.png and kept_patches.png.

    Args:
        cells: The cells of a study, as `cells_of` returns them.
        out: Folder that holds `records/`.
        folder: Folder to write to.
        setting: Model and images.
    """
    frames = read_cells(cells, out)
    table = ablation_table(frames)
    found, failed = held_out(frames, table, groups_of(frames, setting.feature_layer)), failures(cells, out)
    worst = write_worst_kinds(frames, folder, "scorer")
    contents = content_tables(frames, ablation_table, folder, not found.caveat)
    text = paragraphs(markdown(table, worst, found.caveat), contents)
    write_table(table, folder, found.page(text, failed))
    singles = table[table["family"].isin(["single", "suffix"])]
    if len(singles):
        panels = [accuracy_by_layer_data(table, keep, setting.feature_layer) for keep in singles["keep"].unique()]
        save_figure(accuracy_by_layer_figure(panels, setting.source), folder / "accuracy_by_layer.png")
    curves = frontier_data(table, setting.feature_layer, setting.depth)
    save_figure(frontier_figure(curves, setting.source), folder / "frontier.png")
    if setting.images:
        data = kept_patches_data(example_cells(table, cells, setting.feature_layer), out, setting)
        save_figure(kept_patches_figure(data), folder / "kept_patches.png")
    rows = paragraphs(summary(table), worst.text)
    return Summary(rows, paragraphs(found.caveat, found.markdown(reference_budget(table)), failed))


def markdown(table: pd.DataFrame, worst: WorstKinds, caveat: str = "") -> str:
    """Returns one Markdown table per budget.

    Args:
        table: Table of `ablation_table`.
        worst: The worst kind of questions of every row.
        caveat: Reason why there are no verdicts, or an empty string.
    """
    patches, size = table.loc[table["family"] == "full", "keep"].max(), table.iloc[0]
    parts = [_LEGEND.format(n=size["n"], images=size["images"]), worst.legend, caveat]
    for keep, rows in table.groupby("keep", sort=False):
        share = "" if pd.isna(patches) else f" of {patches:.0f} ({percent(keep / patches)} %)"
        lines = [_cells(row, worst, not caveat) for _, row in rows.iterrows()]
        parts += [f"## Patches kept: {keep}{share}", grid(lines)]
    return paragraphs(*parts) + "\n"


def repairs_markdown(repairs: Repairs) -> str:
    """Returns a Markdown table of the wrong answers of each layer that the sum and the controls answer."""
    rows = []
    for _, row in repairs.table.iterrows():
        cells = {"layer": f"{row['layer']:.0f}", "wrong": f"{row['wrong']:.0f}", "sum, %": _share(row, "of_wrong")}
        for name, title in (("other", "best other layer"), ("random", "random")):
            columns = (f"over_{name}", f"over_{name}_low", f"over_{name}_high")
            cells |= {f"{title}, %": _share(row, name), f"sum minus {title}": between(row, columns)}
            cells |= {f"p, {title}": tested(row[columns[0]], row[f"over_{name}_p"])}
        rows.append(cells)
    return f"{_REPAIRS_LEGEND.format(**repairs._asdict())}\n\n{grid(rows)}"


def summary(table: pd.DataFrame) -> str:
    """Returns the accuracy of every scorer (rows) at every budget (columns) with intervals, for a terminal."""
    shown = table.assign(accuracy=[accuracy(row) for _, row in table.iterrows()])
    wide = shown.pivot(index="scorer", columns="keep", values="accuracy")
    return wide.loc[shown["scorer"].drop_duplicates(), sorted(wide.columns, reverse=True)].fillna("").to_string()


def example_cells(table: pd.DataFrame, cells: Sequence[Cell], feature_layer: int) -> list[Cell]:
    """Returns the cells of the example figure: full, best layer, best sum, feature layer and controls."""
    keep = reference_budget(table)
    rows = table[table["keep"] == keep]
    wanted = ["full", best_scorer(rows, "single"), best_scorer(rows, "suffix")]
    wanted += [f"cls[{feature_layer}]", "random[0]", "evidence"]
    found = {cell.scorer: cell for cell in cells if cell.keep == keep or cell.family == "full"}
    return [found[scorer] for scorer in dict.fromkeys(wanted) if scorer in found]


def _cells(row: pd.Series, worst: WorstKinds, verdicts: bool) -> dict[str, str]:
    seeds = f" ({row['seeds']} seeds)" if row["seeds"] > 1 else ""
    return {
        "scorer": f"{row['scorer']}{seeds}",
        "accuracy": accuracy(row),
        **worst.cells(row["scorer"], row["keep"]),
        "vs full": against_full(row),
        "vs random": against_random(row),
        "p": tested(row["delta_vs_random"], row["p_vs_random_holm"], verdicts),
        "evidence recall": percent(row["evidence_recall"]),
        "all things kept": percent(row["things_kept"]),
        "same answer as full": percent(row["agreement_with_full"]),
    }


def _share(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return "-"
    return f"{percent(row[name])} [{percent(row[f'{name}_low'])}, {percent(row[f'{name}_high'])}]"
