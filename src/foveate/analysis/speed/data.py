"""Data of a speed measurement: rounds as parquet, and the table of times, speedups and verdicts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from foveate.analysis.rounds import ratio
from foveate.analysis.tables import VERDICTS
from foveate.analysis.verdicts import holm, side
from foveate.core.errors import DataError, OutputError
from foveate.core.storage import atomic_write
from foveate.models.loading.load import LoadedModel
from foveate.profiling.clock import device_name
from foveate.profiling.rows import FACTS, FULL, ONE_BY_ONE, Setting
from foveate.profiling.speed import INPUTS, PARTS

FASTER, SLOWER, BASELINE = "faster", "slower", "baseline"
GROUP = ["size", "frames", "batch"]
_METADATA = b"foveate"


class Conditions(NamedTuple):
    """Conditions of a measurement.

    Attributes:
        model: Name of the model.
        device: Name of the device.
        kernel: Attention implementation, the same with and without compression.
        dtype: Data type of weights and activations.
        threads: Number of threads of the host.
        new_tokens: Number of tokens of every answer.
        versions: Versions of Python and the libraries.
        date: Date of the measurement.
        left_out: Reasons for settings that were not measured, by setting.
        no_one_by_one: Reason for a missing second baseline, or an empty string.
    """

    model: str
    device: str
    kernel: str
    dtype: str
    threads: int
    new_tokens: int
    versions: str
    date: str
    left_out: Mapping[str, str] = {}
    no_one_by_one: str = ""


def conditions_of(loaded: LoadedModel, new_tokens: int, left_out: Mapping[str, str], no_second: str) -> Conditions:
    """Returns the conditions of a measurement in this process today.

    Args:
        loaded: The model.
        new_tokens: Number of tokens of every answer.
        left_out: Reasons for settings that were not measured, by setting.
        no_second: Reason for a missing second baseline, or an empty string.
    """
    model: Any = loaded.model
    return Conditions(
        loaded.name,
        device_name(model.device),
        model.config._attn_implementation,
        str(model.dtype).removeprefix("torch."),
        torch.get_num_threads(),
        new_tokens,
        versions(),
        date.today().isoformat(),
        left_out,
        no_second,
    )


def versions() -> str:
    """Returns the versions of Python and the libraries, such as "Python 3.11.2, torch 2.13.0"."""
    names = {"Python": python_version()} | {name: version(name) for name in ("torch", "transformers", "foveate")}
    return ", ".join(" ".join(pair) for pair in names.items())


def speed_folder(out: Path, name: str = "measure_speed") -> Path:
    """Returns the folder of a measurement, after a test that it is writable.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = out / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}; choose another --out") from error


def write_rounds(rows: Sequence[Mapping[str, Any]], conditions: Conditions, path: Path) -> None:
    """Writes a row per setting and round as parquet atomically, with the conditions in its metadata."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    metadata = {**(table.schema.metadata or {}), _METADATA: json.dumps(conditions._asdict()).encode()}
    with atomic_write(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def read_rounds(path: Path) -> tuple[pd.DataFrame, Conditions]:
    """Reads the rounds and conditions that `write_rounds` wrote.

    Raises:
        DataError: The file does not exist or has another format.
    """
    try:
        table = pq.read_table(path)
        conditions = json.loads((table.schema.metadata or {})[_METADATA])
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"no timed rounds in {path} ({type(error).__name__}): run `make speed` first") from error
    return table.to_pandas(), Conditions(**conditions)


def speed_table(rounds: pd.DataFrame) -> pd.DataFrame:
    """Returns one row per size, frames, batch, method and budget, in the order of measurement.

    Times are medians over rounds, in milliseconds per question; `decode_ms` is per token. `speedup` is the geometric
    mean over rounds of the total time without compression over that of this row, with its 95 % interval and a p value,
    Holm-corrected over the table. `vs_one_by_one` is the same against the second baseline at the same budget, where
    both times include making tensors of images and words. `flops_ratio` is the operations without compression over
    those of this row.

    Args:
        rounds: Rounds, as `read_rounds` returns them.
    """
    rows = []
    for keys, group in rounds.groupby(GROUP, sort=False):
        settings = {
            (str(method), int(budget)): group[(group["method"] == method) & (group["budget"] == budget)]
            for method, budget in group[["method", "budget"]].drop_duplicates().itertuples(index=False)
        }
        full = next(rows for (method, _), rows in settings.items() if method == FULL)
        for (method, budget), times in settings.items():
            other = settings.get((ONE_BY_ONE, budget))
            rows.append(dict(zip(GROUP, keys, strict=True)) | _row(method, budget, times, full, other))
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p_holm"])
    return table.assign(verdict=[verdict(row) for _, row in table.iterrows()])


def verdict(row: pd.Series) -> str:
    """Returns the verdict on a speedup: faster, slower or not significant; `BASELINE` for both baselines."""
    if row["method"] in (FULL, ONE_BY_ONE):
        return BASELINE
    return {1: FASTER, 0: VERDICTS[0], -1: SLOWER}[side(row["speedup"] - 1, row["p_holm"])]


def groups_of(table: pd.DataFrame) -> Iterable[tuple[Setting, pd.DataFrame]]:
    """Yields the rows of each setting."""
    for size, frames, batch in table[GROUP].drop_duplicates().itertuples(index=False):
        inside = (table["size"] == size) & (table["frames"] == frames) & (table["batch"] == batch)
        yield Setting(int(size), int(frames), int(batch)), table[inside]


def _row(
    method: str, budget: int, times: pd.DataFrame, full: pd.DataFrame, other: pd.DataFrame | None
) -> dict[str, Any]:
    times, full = times.sort_values("round"), full.sort_values("round")
    first, batch = times.iloc[0], times["batch"].iloc[0]
    known = {f"{name}_ms": (times[f"{name}_ms"] / batch).median() for name in (INPUTS, *PARTS)}
    known["decode_ms"] /= first["new_tokens"] - 1
    low, median, high = (times["total_ms"] / batch).quantile([0.25, 0.5, 0.75])
    known |= {"total_ms": median, "total_q25_ms": low, "total_q75_ms": high}
    known |= {name: first[name] for name in (*FACTS, *(c for c in times.columns if c.startswith("gflops_")))}
    known["flops_ratio"] = full.iloc[0]["gflops_foveate"] / first["gflops_foveate"]
    speedup = (np.nan,) * 4
    if method not in (FULL, ONE_BY_ONE):
        speedup = ratio(full["total_ms"], times["total_ms"])[:4]
    second = (np.nan,) * 4
    if other is not None and method != ONE_BY_ONE:
        whole = times["total_ms"] + times[f"{INPUTS}_ms"]
        second = ratio(other.sort_values("round")["total_ms"], whole)[:4]
    named = {"method": method, "budget": budget, "rounds": len(times)}
    return (
        named
        | known
        | dict(zip(("speedup", "low", "high", "p_holm"), speedup, strict=True))
        | dict(zip(("vs_one_by_one", "vs_low", "vs_high"), second, strict=False))
    )
