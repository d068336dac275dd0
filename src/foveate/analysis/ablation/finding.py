"""The figure of the README: kept patches of example questions beside accuracy by budget."""

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from foveate.analysis.ablation.figures import Frontier, Series, draw_frontier
from foveate.analysis.cells import Cell, accuracy_of, cells_of, read_cells
from foveate.analysis.drawing import COLOURS, caption, house_style, readable, save_figure
from foveate.analysis.kept_patches import KeptPatches, Setting, draw_kept_patches, kept_patches_data, setting_of
from foveate.analysis.records import read_records
from foveate.core.errors import DataError
from foveate.evaluation import EvalConfig
from foveate.methods import fastv
from foveate.models.backbone.adapter import Tower
from foveate.studies.ablation import Choice, ablate, controls, every_layer, single
from foveate.studies.study_folder import StudyFolder

KEEP = (0.5, 0.25, 16, 7)
_COLUMNS = ("all", "single", "fastv", "random")  # families of the columns, and with the oracle of the lines
_ROWS = 2
_BLOCK = 1
"""Block of the language model whose prompt attention chooses: that of FastV with its authors' layer 2, not scaled."""


class Finding(NamedTuple):
    """Data of the figure.

    Attributes:
        frontier: Accuracy by budget of the scorers and the oracle.
        examples: Questions that only the first column answers, with a panel per scorer.
        families: Families of the columns.
        alone: Number of questions that only this column answers with the examples' number of patches, by column.
    """

    frontier: Frontier
    examples: KeptPatches
    families: tuple[str, ...]
    alone: Mapping[str, int]


def finding_choices(tower: Tower, layer: int = 4) -> list[Choice]:
    """Returns the sum of all layers, one layer, prompt attention (FastV), random patches, the oracle and all patches.

    Args:
        tower: The model's vision tower.
        layer: The single layer.
    """
    prompt = Choice("prompt attention", "fastv", "", partial(fastv, layer=_BLOCK + 1))
    kept = [choice for choice in controls() if choice.family in ("full", "evidence", "random")]
    return [every_layer(tower), single(layer, tower), prompt, *kept]


def write_finding(config: EvalConfig, path: Path) -> None:
    """Answers the questions, unless `<config.out>/finding` has the answers, and draws the figure.

    Args:
        config: The evaluation; each cell replaces its compressor.
        path: The PNG to write.
    """
    study = ablate(StudyFolder("finding", config.out, existing="beside"), config, finding_choices, KEEP)
    setting = setting_of(study, config)
    save_figure(finding_figure(finding_data(cells_of(study), config.out, setting), setting.source), path)


def finding_data(cells: Sequence[Cell], out: Path, setting: Setting, keep: int = 16) -> Finding:
    """Returns the lines of the frontier, and the first questions that only the first column answers.

    The examples have the shortest answers, and differ in kind and image.

    Args:
        cells: Cells of a study of `finding_choices`.
        out: Folder that holds `records/`.
        setting: Images, grid and evidence.
        keep: Number of kept patches of the examples.

    Raises:
        DataError: A scorer was not evaluated at `keep`, or the first column alone answers fewer than two questions.
    """
    at_keep = {cell.family: cell for cell in reversed(cells) if cell.keep == keep}  # the first seed of random
    if missing := [family for family in _COLUMNS if family not in at_keep]:
        raise DataError(f"no answers of {', '.join(missing)} with {keep} patches: add the budget {keep} to the study")
    shown = [at_keep[family] for family in _COLUMNS]
    answers = [read_records(out, cell.run_id).set_index("sample_id") for cell in shown]
    right = np.stack([frame["score"] == 1 for frame in answers], 1)
    alone = right & (right.sum(1, keepdims=True) == 1)
    only_first = answers[0][alone[:, 0] & answers[0]["image_id"].isin(list(setting.images))]
    only_first = only_first.iloc[only_first["reference"].str.len().argsort(kind="stable")]  # short answers fit
    chosen = only_first.drop_duplicates("image_id").drop_duplicates("kind").index[:_ROWS]
    if len(chosen) < _ROWS:
        raise DataError(f"only {len(chosen)} questions are answered by {shown[0].scorer} alone: ask more questions")
    examples = kept_patches_data(shown, out, setting, questions=tuple(chosen))
    return Finding(
        _frontier(cells, out), examples, _COLUMNS, dict(zip(examples.columns, alone.sum(0).tolist(), strict=True))
    )


def finding_figure(data: Finding, source: str = "") -> Figure:
    """Draws a row per question, a column per scorer, and the frontier on the right.

    Args:
        data: Data of `finding_data`.
        source: Model, data and split, for the footnote.
    """
    examples, frontier, columns = data.examples, data.frontier, len(data.families)
    with house_style():
        figure = Figure(figsize=(10.8, 5.4), layout="constrained")
        grid = figure.add_gridspec(_ROWS, columns + 1, width_ratios=[1] * columns + [1.9], wspace=0.04, hspace=0.12)
        for row, (question, panels) in enumerate(zip(examples.questions, examples.panels, strict=True)):
            for column, panel in enumerate(panels):
                ax = draw_kept_patches(panel, figure.add_subplot(grid[row, column]))
                if row == 0:
                    name = textwrap.fill(f"{examples.columns[column]}: {_right(data, column)}", 15)
                    ax.set_title(name, color=COLOURS[data.families[column]], fontsize=12, loc="center", pad=24)
                if column == 0:
                    text = ax.text(0, 1.04, question, transform=ax.transAxes, va="bottom", fontsize=12)
                    text.set_in_layout(False)  # it stands above several columns
        best, second = (f"{examples.columns[column]} {_right(data, column)}" for column in (0, 1))
        title = f"With {examples.keep} of {examples.patches} patches: {best} right, {second}"
        caption(figure, title, _note(data, source))
        ax = figure.add_subplot(grid[:, columns])
        ax.set(xlabel="patches kept", title=f"right answers, n = {frontier.n:,} questions")
        figure.draw_without_rendering()  # labels of lines are placed by the height of their axes
        draw_frontier(frontier, ax).set_ylabel("")
    return figure


def _right(data: Finding, column: int) -> str:
    """Returns the accuracy of a column with the examples' number of patches."""
    return f"{data.frontier.series[column].points.loc[data.examples.keep, 'accuracy']:.0%}".replace("%", " %")


def _note(data: Finding, source: str) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in data.alone.items())
    return (
        "Left: dropped patches are grey, what the question needs is outlined; only the first choice answers both. Of "
        f"{data.frontier.n:,} questions one choice alone answers: {counts}. Layers: [CLS] attention. Prompt attention: "
        f"as in FastV, read in block {_BLOCK}; the blocks before the cut see all patches. Bands: 95 % intervals over "
        f"{data.frontier.images:,} images. {source}"
    ).strip()


def _frontier(cells: Sequence[Cell], out: Path) -> Frontier:
    table = pd.DataFrame([{**cell._asdict(), **accuracy_of(frame)} for cell, frame in read_cells(cells, out).items()])
    series = []
    for family in (*_COLUMNS, "evidence"):
        if len(rows := table[table["family"] == family]):
            name = readable(rows["scorer"].iloc[0], family, rows["layers"].iloc[0])
            points = rows.set_index("keep")[["accuracy", "ci_low", "ci_high"]].sort_index()
            series.append(Series(name, family, "-", points))
    full = table[table["family"] == "full"].iloc[0]
    return Frontier(tuple(series), full["accuracy"], full["keep"], full["n"], full["images"])
