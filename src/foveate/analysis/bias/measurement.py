"""Readers of a finished bias measurement: facts, means, maps and curves, read batch by batch."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from foveate.analysis.bias.measures import (
    AREAS,
    RESPONSE,
    ROW,
    Key,
    interval_of,
    is_whole,
    key_order,
    one_random,
    ordered,
)
from foveate.analysis.statistics import spearman
from foveate.bias.metrics import row_null
from foveate.bias.tables import SAMPLES, TableFolder
from foveate.core.arrangement import Grid
from foveate.core.errors import DataError
from foveate.data.load import data_hash, load_samples
from foveate.data.sample import VQASample

PERMUTATIONS = 999
LOSSES = {"insertion": "insertion_loss", "deletion": "deletion_loss"}


class MeanMap(NamedTuple):
    """The mean map of a signal over `n` questions, (rows, columns) of sum 1; every question has equal weight."""

    signal: str
    layers: str
    values: np.ndarray
    n: int


def measurement(out: Path, name: str | None = None, checkpoint: str | None = None) -> TableFolder:
    """Returns the newest finished bias measurement under `<out>/bias`.

    Args:
        out: Folder of all results.
        name: Name of the folder; None means any.
        checkpoint: Hash of the model; None means any.

    Raises:
        DataError: There is no such measurement.
    """
    found = sorted((out / "bias").glob(f"{name or '*'}/DONE"), key=lambda done: done.stat().st_mtime)
    folders = [TableFolder(done.parent) for done in found]
    if checkpoint is not None:
        folders = [folder for folder in folders if folder.identity["checkpoint"] == checkpoint]
    if not folders:
        which = "" if checkpoint is None else f" of the model with checkpoint {checkpoint}"
        raise DataError(f"no finished bias measurement{which} in {out / 'bias' / (name or '')}: run `make bias` first")
    return folders[-1]


def grid_of(folder: TableFolder) -> Grid:
    """Returns the rows and columns of the patches of an image.

    Raises:
        DataError: The measurement has no grid, as those of earlier versions.
    """
    if not (found := folder.identity.get("grid")):
        raise DataError(f"{folder.folder} has no 'grid' of patches: measure this configuration again")
    return Grid(*found)


def plan_of(folder: TableFolder, field: str) -> str:
    """Returns a numeric field of the plan as text.

    Raises:
        DataError: The plan has no such field.
    """
    found = re.search(rf"\b{field}=([\d.]+)", folder.identity.get("plan", ""))
    if found is None:
        raise DataError(f"{folder.folder} has no {field!r} in its plan: measure this configuration again")
    return found[1]


def source_of(folder: TableFolder) -> str:
    """Returns model, data and split of a measurement for footnotes, paths without their folders."""
    facts = folder.identity
    names = {name: Path(facts[name]).name for name in ("model", "data", "split") if facts.get(name)}
    return ", ".join(f"{name} {value}" for name, value in names.items()).capitalize()


def samples_of(folder: TableFolder, seed: int = 0) -> list[VQASample]:
    """Returns the questions that were measured, with their images.

    Args:
        folder: A finished measurement.
        seed: Seed of generated data.

    Raises:
        DataError: The data set has different questions now.
    """
    facts = folder.identity
    limit = folder.read(SAMPLES, ["sample_id"]).num_rows
    location = facts.get("location")
    data = f"{facts['data']}:{location}" if location else facts["data"]
    samples = load_samples(data, facts["split"], limit, seed)
    if data_hash(samples) != facts["data_hash"]:
        raise DataError(
            f"{folder.folder} was measured on other questions than {facts['data']!r}, split {facts['split']!r}, "
            f"seed {seed} gives: give the seed of that run, or measure again"
        )
    return samples


def mapped(folder: TableFolder) -> list[Key]:
    """Returns the signals and layers that have maps, in order."""
    keys = ["signal", "layers"]
    parts = [batch.group_by(keys).aggregate([]) for batch in folder.batches("maps", keys)]
    return sorted({(row["signal"], row["layers"]) for part in parts for row in part.to_pylist()}, key=key_order)


def means(folder: TableFolder, table: str, keys: Sequence[str], measure: str, filters: Any = None) -> pd.DataFrame:  # noqa: ANN401
    """Returns the mean of one measure and its `n` for every combination of keys.

    Args:
        folder: The measurement.
        table: Name of the table.
        keys: Key columns.
        measure: Column of the measure; NaN is left out.
        filters: Filters of `pyarrow.parquet.read_table`.
    """
    total = pd.DataFrame(columns=["sum", "count"], dtype=float)
    for batch in folder.batches(table, [*keys, measure], filters):
        values = batch[measure]
        known = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)  # pyright: ignore
        batch = batch.select(list(keys)).append_column("value", known)
        found = batch.group_by(list(keys)).aggregate([("value", "sum"), ("value", "count")]).to_pandas()
        found = found.set_index(list(keys)).set_axis(["sum", "count"], axis=1).fillna(0.0)
        total = total.add(found, fill_value=0.0) if len(total) else found
    frame = pd.DataFrame({measure: total["sum"] / total["count"], "n": total["count"].astype(int)}, total.index)
    return frame.rename_axis(list(keys)).reset_index()


def mean_maps(folder: TableFolder) -> list[MeanMap]:
    """Returns the mean map of every signal and layers over all questions."""
    grid = grid_of(folder)
    found = _mean_rows(folder)
    return [MeanMap(*key, mean.reshape(grid.rows, grid.columns), n) for key, (mean, n) in found.items()]


def placeless(folder: TableFolder) -> pd.DataFrame:
    """Returns Spearman with the response after each signal's mean map is subtracted: `placeless_spearman`.

    The mean map over all questions holds a signal's preference for positions, whatever the image. NaN if the rest is
    constant.
    """
    mean = {key: row for key, (row, _) in _mean_rows(folder).items()}
    target = next((key for key in mean if key[0] == RESPONSE and is_whole(key)), None)
    parts = [pd.DataFrame(columns=[*ROW, "placeless_spearman"])]
    for rows, maps in _unit_maps(folder) if target else ():
        keys = list(zip(rows["signal"], rows["layers"], strict=True))
        rest = maps - np.stack([mean[key] for key in keys])
        at = [number for number, key in enumerate(keys) if key == target]
        row_of_target = rows["sample_id"].map(pd.Series(at, rows["sample_id"].iloc[at]))
        known = row_of_target.notna().to_numpy()
        own, target_rest = rest[known], rest[row_of_target[known].astype(int)]
        left = np.minimum(np.ptp(own, axis=1), np.ptp(target_rest, axis=1)) > 1e-9  # smaller ranges are rounding
        parts.append(rows[known].assign(placeless_spearman=np.where(left, spearman(own, target_rest), np.nan)))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def row_nulls(folder: TableFolder, permutations: int = PERMUTATIONS, seed: int = 0) -> pd.DataFrame:
    """Returns the p of the row correlation under shuffled patches, `row_correlation_p_null`, by signal and layers.

    `foveate.bias.metrics.row_null` computes it from one map per image, the mean over its questions. Only the maps of
    one signal are in memory.

    Args:
        folder: The measurement.
        permutations: Number of permutations of the patches of every image.
        seed: Seed of the permutations.
    """
    grid, rows = grid_of(folder), []
    for signal in dict.fromkeys(signal for signal, _ in mapped(folder)):
        sums: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(float))
        for about, maps in _unit_maps(folder, [("signal", "==", signal)]):
            for (layers, image), indices in _groups(about, "layers", "image_id"):
                sums[layers][image] += maps[indices].sum(0)
        for layers, images in sums.items():
            maps = torch.from_numpy(np.stack(list(images.values())))  # sums have the ranks of means
            rows.append((signal, layers, row_null(maps, grid, permutations, seed)))
    return pd.DataFrame(rows, columns=["signal", "layers", "row_correlation_p_null"])


def _mean_rows(folder: TableFolder) -> dict[Key, tuple[np.ndarray, int]]:
    """Returns the flat mean map and the number of maps, by signal and layers, in order."""
    sums: dict[Key, Any] = defaultdict(float)
    counts: dict[Key, int] = defaultdict(int)
    for rows, maps in _unit_maps(folder):
        for key, indices in _groups(rows, "signal", "layers"):
            sums[key] += maps[indices].sum(0)
            counts[key] += len(indices)
    return {key: (sums[key] / counts[key], counts[key]) for key in sorted(sums, key=key_order)}


def _groups(rows: pd.DataFrame, first: str, second: str) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Yields each pair of values of two columns with the indices of its rows."""
    for (a, b), indices in rows.groupby([first, second]).indices.items():  # pyright: ignore
        yield (str(a), str(b)), np.asarray(indices)


def _unit_maps(folder: TableFolder, filters: Any = None) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:  # noqa: ANN401
    """Yields the columns `ROW` and the maps, each of sum 1, batch by batch; unknown maps are left out."""
    for batch in folder.batches("maps", [*ROW, "map"], filters):
        batch = batch.filter(pc.is_valid(batch["map"]))  # pyright: ignore
        if not batch.num_rows:
            continue
        maps = np.stack(batch["map"].to_numpy()).astype(float)
        sums = maps.sum(axis=1)
        known = sums > 0
        yield batch.select(ROW).to_pandas()[known].reset_index(drop=True), maps[known] / sums[known, None]


def curve_frame(folder: TableFolder) -> pd.DataFrame:
    """Returns the losses of the answer's log-probability, one row per question, signal, layers and share.

    `insertion_loss` is the loss if only that share of the patches is left (lower is better), `deletion_loss` the loss
    if it is removed (higher is better). Each seed of the random maps is a row.
    """
    frame = folder.read("curves", [*ROW, "share", *LOSSES]).to_pandas()
    whole = folder.read(SAMPLES, ["sample_id", "log_probability"]).to_pandas().set_index("sample_id")
    known = frame["sample_id"].map(whole["log_probability"])
    losses = {name: known - frame[measured] for measured, name in LOSSES.items()}
    return ordered(frame.assign(**losses).drop(columns=list(LOSSES)), ["share"])


def curve_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Returns n, images and both losses with intervals per signal, layers and share; random maps are one signal.

    Args:
        curves: Frame of `curve_frame`.
    """
    curves, rows = ordered(one_random(curves, ["share"]), ["share"]), []
    for key, group in curves.groupby(["signal", "layers", "share"], sort=False):
        row = dict(zip(("signal", "layers", "share"), key, strict=True)) | {"images": group["image_id"].nunique()}
        for name in LOSSES.values():
            found = interval_of(group[name], group["image_id"], name)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=False))
        rows.append(row | {"n": len(group)})
    return pd.DataFrame(rows)


def curve_areas(curves: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean loss along each curve per question, by the trapezoidal rule over the logarithm of the share.

    Args:
        curves: Frame of `curve_frame`.
    """
    areas = {}
    for measure, loss in zip(AREAS, LOSSES.values(), strict=True):
        wide = curves.pivot(index=ROW, columns="share", values=loss).sort_index(axis=1)
        logs, losses = np.log(wide.columns.to_numpy(float)), wide.to_numpy(float)
        area = np.trapezoid(losses, logs, axis=1) / np.ptp(logs) if len(logs) > 1 else losses[:, 0]
        areas[measure] = pd.Series(area, wide.index)
    return pd.DataFrame(areas).reset_index()
