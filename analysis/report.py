"""Everything that a finished ablation shows, written into one folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from analysis.ablation import Cell, ablation_table, best_scorer
from analysis.answer import answer_sentence, reference_budget
from analysis.drawing import save_figure
from analysis.figures import accuracy_by_layer_data, accuracy_by_layer_figure, frontier_data, frontier_figure
from analysis.pictures import kept_patches_data, kept_patches_figure
from analysis.tables import write_table


def write_report(
    cells: Sequence[Cell],
    out: Path,
    folder: Path,
    *,
    feature_layer: int,
    depth: int,
    pictures: Mapping[str, Image.Image],
    grid: tuple[int, int],
    evidence: Mapping[str, np.ndarray] | None = None,
) -> str:
    """Writes table.csv, table.md, accuracy_by_layer.png, frontier.png and kept_patches.png; returns the answer.

    Args:
        cells: The cells of a study, as `cells_of` gives them.
        out: Folder that holds `records/`.
        folder: Where to write.
        feature_layer: The layer that writes the features.
        depth: Number of layers of the vision tower.
        pictures: Some pictures by `image_id`, as the vision tower sees them (cropped).
        grid: Rows and columns of patches.
        evidence: By `sample_id`, (rows, columns) bool: patches that hold the answer; None if unknown.
    """
    table = ablation_table(cells, out)
    write_table(table, folder)
    singles = table[table["family"].isin(["single", "suffix"])]
    if len(singles):
        panels = [accuracy_by_layer_data(table, keep, feature_layer) for keep in singles["keep"].unique()]
        save_figure(accuracy_by_layer_figure(panels), folder / "accuracy_by_layer.png")
    save_figure(frontier_figure(frontier_data(table, feature_layer, depth)), folder / "frontier.png")
    if pictures:
        columns = telling_cells(table, cells, feature_layer)
        data = kept_patches_data(columns, out, pictures, grid, evidence)
        save_figure(kept_patches_figure(data), folder / "kept_patches.png")
    return answer_sentence(table, cells, out, feature_layer=feature_layer, depth=depth)


def telling_cells(table: pd.DataFrame, cells: Sequence[Cell], feature_layer: int) -> list[Cell]:
    """The cells worth a picture: full, and at the reference budget the best layer and sum, feature layer, controls."""
    keep = reference_budget(table)
    rows = table[table["keep"] == keep]
    wanted: list[str | None] = ["full"]
    wanted += [best_scorer(rows, "single"), best_scorer(rows, "suffix")]
    wanted += [f"cls[{feature_layer}]", "random[0]", "evidence"]
    found = {cell.scorer: cell for cell in cells if cell.keep == keep or cell.family == "full"}
    return [found[scorer] for scorer in dict.fromkeys(wanted) if scorer in found]
