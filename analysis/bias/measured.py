"""A finished bias measurement: which one it is, what it says of itself, and its tables, batch by batch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.bias.signals import Key, key_order
from foveate.bias.tables import SAMPLES, TableFolder
from foveate.core.arrangement import Grid
from foveate.core.errors import DataError
from foveate.data.load import data_hash, load_samples
from foveate.data.sample import VQASample


def measurement(out: Path, name: str | None = None, checkpoint: str | None = None) -> TableFolder:
    """Returns a finished bias measurement under `<out>/bias`, the newest one.

    Args:
        out: Folder of all results.
        name: Of the folder; None means any.
        checkpoint: Hash of the model that was looked at; None means any.

    Raises:
        DataError: There is none.
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
    """Rows and columns of the patches of an image.

    Raises:
        DataError: The measurement does not say, as those of earlier versions.
    """
    if not (found := folder.identity.get("grid")):
        raise DataError(f"{folder.folder} does not say its 'grid' of patches: measure this configuration again")
    return Grid(*found)


def plan_of(folder: TableFolder, field: str) -> str:
    """Returns a field of the plan, which is kept as it prints.

    Raises:
        DataError: There is no such number.
    """
    found = re.search(rf"\b{field}=([\d.]+)", folder.identity.get("plan", ""))
    if found is None:
        raise DataError(f"{folder.folder} does not say {field!r} of its plan: measure this configuration again")
    return found[1]


def source_of(folder: TableFolder) -> str:
    """Returns model, data and split of a measurement, as footnotes say them; of a folder on disk only its name."""
    facts = folder.identity
    names = {what: Path(facts[what]).name for what in ("model", "data", "split") if facts.get(what)}
    return ", ".join(f"{what} {name}" for what, name in names.items()).capitalize()


def samples_of(folder: TableFolder, seed: int = 0) -> list[VQASample]:
    """Returns the questions that were measured, with their images.

    Args:
        folder: A finished measurement.
        seed: Of generated data.

    Raises:
        DataError: The data set gives other questions now.
    """
    facts = folder.identity
    limit = folder.read(SAMPLES, ["sample_id"]).num_rows
    place = facts.get("location")
    data = f"{facts['data']}:{place}" if place else facts["data"]
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
    """Returns the mean of what is known of one measure, and its `n`, a row per different keys; rows are not held.

    Args:
        folder: What was measured.
        table: Its name.
        keys: Columns whose equal rows belong together.
        measure: Another column; NaN is left out.
        filters: As in `pyarrow.parquet.read_table`.
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
