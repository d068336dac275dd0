"""Everything that a finished ablation shows, written into one folder."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import pandas as pd
from PIL import Image

from analysis.ablation.data import (
    BUDGETLESS,
    PIXEL_FILTERS,
    Cell,
    ablation_table,
    best_scorer,
    cells_of,
    read_cells,
    reference_budget,
)
from analysis.ablation.figures import accuracy_by_layer_data, accuracy_by_layer_figure, frontier_data, frontier_figure
from analysis.benchmarks.data import failures
from analysis.drawing import save_figure
from analysis.findings import findings, page
from analysis.held_out import Group
from analysis.kept_patches import kept_patches_data, kept_patches_figure
from analysis.tables import markdown, paragraphs, summary, write_table
from foveate.core.arrangement import Arrangement, Grid
from foveate.data.load import parsed
from foveate.data.sample import LazyMapping, VQASample, first_of_images
from foveate.evaluation import EvalConfig
from foveate.evaluation.evidence import evidence_of, visible_part
from foveate.evaluation.run import cached_load, data_of
from foveate.metrics.evidence import SHOWN
from foveate.studies.study import keep_artifacts


class Setting(NamedTuple):
    """What the records do not say.

    Attributes:
        feature_layer: The layer that writes the features.
        depth: Number of layers of the vision tower.
        grid: Rows and columns of patches.
        images: ImageBatch by `image_id`, as the vision tower sees them; none where it does not see all in one grid.
        evidence: By `sample_id`, (rows, columns) bool: patches that hold the answer; empty if unknown.
        source: Model, data and split, for the footnotes of figures.
    """

    feature_layer: int
    depth: int
    grid: tuple[int, int]
    images: Mapping[str, Image.Image]
    evidence: Mapping[str, np.ndarray]
    source: str = ""


def report(study: optuna.Study, config: EvalConfig) -> str:
    """Writes the report of a finished ablation beside its study and into its artifacts; returns what to print."""
    folder = config.out / study.study_name
    answer = write_report(cells_of(study), config.out, folder, setting_of(study, config))
    keep_artifacts(study, folder)
    return f"{answer}\n\nTables and figures: {folder}"


def setting_of(study: optuna.Study, config: EvalConfig) -> Setting:
    """The model's facts from the study, the images and their evidence from the data set."""
    facts = study.user_attrs
    samples, _ = data_of(config.data, config.split, config.limit, config.seed)
    grid, source = Grid(*facts["grid"]), source_of(config)
    loaded = cached_load(config.model, config.device, config.dtype)

    def shown(sample: VQASample) -> np.ndarray:
        share = evidence_of([sample], [Arrangement((grid,))], loaded)[0]
        return (share >= SHOWN).any(0).reshape(grid.rows, grid.columns).numpy()

    if not loaded.adapter.fixed_grid:
        return Setting(facts["feature_layer"], facts["depth"], (grid.rows, grid.columns), {}, {}, source)
    return Setting(
        facts["feature_layer"],
        facts["depth"],
        (grid.rows, grid.columns),
        LazyMapping(first_of_images(samples), lambda sample: visible_part(loaded, sample.image, grid)),
        LazyMapping({sample.id: sample for sample in samples if sample.things.known}, shown),
        source,
    )


def source_of(config: EvalConfig) -> str:
    """Returns model, data and split, as footnotes of figures name them."""
    return f"Model {Path(config.model).name}, data {parsed(config.data)[0]}, split {config.split}."


def write_report(cells: Sequence[Cell], out: Path, folder: Path, setting: Setting) -> str:
    """Writes table.csv, table.md, accuracy_by_layer.png, frontier.png and kept_patches.png; returns what to print.

    Args:
        cells: The cells of a study, as `cells_of` gives them.
        out: Folder that holds `records/`.
        folder: Where to write.
        setting: Model and images.
    """
    frames = read_cells(cells, out)
    table = ablation_table(frames)
    found, failed = findings(frames, table, groups_of(frames, setting.feature_layer)), failures(cells, out)
    write_table(table, folder, page(markdown(table, found.doubt), found, failed))
    singles = table[table["family"].isin(["single", "suffix"])]
    if len(singles):
        panels = [accuracy_by_layer_data(table, keep, setting.feature_layer) for keep in singles["keep"].unique()]
        save_figure(accuracy_by_layer_figure(panels, setting.source), folder / "accuracy_by_layer.png")
    curves = frontier_data(table, setting.feature_layer, setting.depth)
    save_figure(frontier_figure(curves, setting.source), folder / "frontier.png")
    if setting.images:
        columns = telling_cells(table, cells, setting.feature_layer)
        data = kept_patches_data(columns, out, setting.images, setting.grid, setting.evidence)
        save_figure(kept_patches_figure(data), folder / "kept_patches.png")
    return paragraphs(found.doubt, found.first, summary(table), found.printed(reference_budget(table)), failed)


def groups_of(cells: Iterable[Cell], feature_layer: int) -> dict[int, list[Group]]:
    """Returns what an ablation compares at every budget: layers and sums, each with the controls."""
    groups: dict[int, list[Group]] = {}
    full = [cell for cell in cells if cell.family == "full"]
    for keep in dict.fromkeys(cell.keep for cell in cells if cell.family not in BUDGETLESS):
        here = [cell for cell in cells if cell.keep == keep and cell.family not in BUDGETLESS]

        def of(*families: str, here: Sequence[Cell] = here) -> list[Cell]:
            return [cell for cell in here if cell.family in families]

        controls = ("best pixel filter", "random", "uniform", "full")
        features = [cell for cell in of("single") if cell.first_layer == feature_layer]
        groups[keep] = [
            Group("best single layer", of("single"), controls),
            Group("layer that writes the features", features, ("best single layer", *controls)),
            Group("best sum that ends there", of("suffix"), ("best single layer", *controls)),
            Group("sum of all layers", of("all"), ("best single layer", *controls)),
            Group("best pixel filter", of(*PIXEL_FILTERS), ("random",)),
            Group("random", of("random")),
            Group("uniform", of("uniform")),
            Group("full", full),
        ]
    return groups


def telling_cells(table: pd.DataFrame, cells: Sequence[Cell], feature_layer: int) -> list[Cell]:
    """The cells worth an image: full, and at the reference budget the best layer and sum, feature layer, controls."""
    keep = reference_budget(table)
    rows = table[table["keep"] == keep]
    wanted: list[str | None] = ["full"]
    wanted += [best_scorer(rows, "single"), best_scorer(rows, "suffix")]
    wanted += [f"cls[{feature_layer}]", "random[0]", "evidence"]
    found = {cell.scorer: cell for cell in cells if cell.keep == keep or cell.family == "full"}
    return [found[scorer] for scorer in dict.fromkeys(wanted) if scorer in found]
