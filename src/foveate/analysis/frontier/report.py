"""Report of a finished frontier: table and figure in one folder."""

import optuna
import pandas as pd

from foveate.analysis.cells import BUDGETLESS, caveat, failures
from foveate.analysis.comparison.data import comparison_of, read_comparison
from foveate.analysis.comparison.report import absent
from foveate.analysis.drawing import save_figure
from foveate.analysis.frontier.data import (
    Frontier,
    at_equal_time,
    at_equal_tokens,
    chosen,
    frontier_table,
    medians,
)
from foveate.analysis.frontier.figures import frontier_figure, planes_data, times_data
from foveate.analysis.held_out import corrected, markdown, too_few_held_out
from foveate.analysis.kept_patches import setting_of
from foveate.analysis.speed.data import Conditions, read_rounds
from foveate.analysis.tables import accuracy, against_full, against_random, between, grid, paragraphs, write_table
from foveate.evaluation import EvalConfig
from foveate.studies.notes import note_study
from foveate.studies.study import keep_artifacts

ROUNDS = "rounds.parquet"
"""The file of the timed rounds in the study's folder."""
_LEGEND = (
    "n = {n:,} questions about {images:,} images; accuracy in %, differences in points, paired by question, with 95 % "
    "intervals over images. *Image tokens* are those that an image has before the method: all {patches}, fewer in a "
    "mix (`method@tokens`), or as few as the budget (`downsample`). *Equivalent* are the visual tokens of a question, "
    "measured, averaged over the blocks of the language model. *ms*: median time of a question with tower, method and "
    "language model{times}."
)
_TIMES = ", on {device}, in {dtype}, with {tokens} tokens per answer; it holds for this machine"
_EQUAL_TOKENS = "## Best at equal tokens"
_EQUAL_TIME = (
    "## Best at equal milliseconds\n\nOf all budgets, among the cells that take no longer than the method alone at one "
    "of them. Which cells these are depends on the machine."
)


def report(study: optuna.Study, config: EvalConfig) -> str:
    """Writes table.csv, table.md and frontier.png beside a finished frontier; returns the text to print.

    Args:
        study: The study.
        config: Its configuration.
    """
    folder = config.out / study.study_name
    rounds, conditions = read_rounds(folder / ROUNDS) if (folder / ROUNDS).exists() else (None, None)
    comparison, setting = comparison_of(study), setting_of(study, config)
    frontier = Frontier(comparison, study.user_attrs["resolutions"], {} if rounds is None else medians(rounds))
    frames = read_comparison(comparison, config.out)
    table = frontier_table(frames, frontier)
    tokens, by_time = at_equal_tokens(frames, frontier), at_equal_time(frames, frontier)
    tokens, by_time = corrected(tokens, by_time) if len(tokens) and len(by_time) else (tokens, by_time)
    why = caveat(frames, table) or too_few_held_out(tokens)
    rows, best = _markdown(table, frontier, conditions), _best(tokens, by_time, not why)
    failed = failures(comparison.cells, config.out)
    write_table(table, folder, paragraphs(rows, why, best, *absent(comparison), failed) + "\n")
    size = int(table["n"].iloc[0]), int(table["images"].iloc[0])
    if planes := planes_data(table, chosen(tokens)):
        figure = frontier_figure(planes, times_data(table), size, setting.source)
        save_figure(figure, folder / "frontier.png")
    keep_artifacts(study, folder)
    finding = paragraphs(why, best, failed)
    note_study(study, finding)
    return paragraphs(rows, finding, f"Table and figure: {folder}")


def _markdown(table: pd.DataFrame, frontier: Frontier, conditions: Conditions | None) -> str:
    size = table.iloc[0]
    times = (
        ", not measured"
        if conditions is None
        else _TIMES.format(device=conditions.device, dtype=conditions.dtype, tokens=conditions.new_tokens)
    )
    legend = _LEGEND.format(n=size["n"], images=size["images"], patches=frontier.comparison.patches, times=times)
    without = table["method"].isin(BUDGETLESS)
    parts = [legend, grid([_cells(row) for _, row in table[without].iterrows()])] if without.any() else [legend]
    for budget, rows in table[~without].groupby("budget", sort=False):
        parts += [f"## {budget} equivalent tokens", grid([_cells(row) for _, row in rows.iterrows()])]
    return paragraphs(*parts)


def _cells(row: pd.Series) -> dict[str, str]:
    seeds = f" ({row['seeds']} seeds)" if row["seeds"] > 1 else ""
    names = {name: (name, f"{name}_low", f"{name}_high") for name in ("vs_alone", "vs_downsample")}
    return {
        "method": f"{row['method']}{seeds}",
        "image tokens": f"{row['image_tokens']:.0f}",
        "accuracy": accuracy(row),
        "vs the method alone": between(row, names["vs_alone"]),
        "vs downsample": between(row, names["vs_downsample"]),
        "vs random": against_random(row),
        "vs full": against_full(row),
        "equivalent": f"{row['equivalent_tokens']:.1f}",
        "ms": "-" if pd.isna(row["ms"]) else f"{row['ms']:.2f}",
    }


def _best(tokens: pd.DataFrame, by_time: pd.DataFrame, verdicts: bool) -> str:
    """Returns the best cells at equal tokens and at equal time, chosen on one half of the images."""
    parts = [_EQUAL_TOKENS, markdown(tokens, verdicts=verdicts)]
    if len(by_time):
        parts += [_EQUAL_TIME, markdown(by_time, verdicts=verdicts, unit="")]
    return paragraphs(*parts)
