"""From timed rounds to a table: where the time goes, whether compression pays, and how sure that is."""

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

from analysis.rounds import ratio
from analysis.verdicts import holm, side
from foveate.core.errors import DataError, OutputError
from foveate.core.storage import atomic_write
from foveate.models.loading.load import LoadedModel
from foveate.profiling.clock import device_name
from foveate.profiling.flops import CONVENTIONS
from foveate.profiling.speed import INPUTS, PARTS, Round

FULL, ONE_BY_ONE, TOTAL = "full", "one by one", "total"
FASTER, SLOWER, LEVEL = "faster", "slower than no compression at this size", "no difference shown"
GROUP = ["size", "batch"]
_METADATA = b"foveate"
_FACTS = ("equivalent_tokens", "given_tokens", "left_tokens", "kv_bytes", "peak_bytes")


class Conditions(NamedTuple):
    """What was measured where.

    Attributes:
        model: Its name.
        device: What the device calls itself.
        kernel: Attention implementation, the same with and without compression.
        dtype: Of weights and activations.
        threads: Of the host.
        new_tokens: Of every answer.
        versions: Of Python and the libraries.
        date: Of the measurement.
        left_out: Of methods and budgets that were not measured, why.
        no_one_by_one: Why there is no second baseline; empty where there is one.
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
    """What this process would measure a model under, and now.

    Args:
        loaded: The model.
        new_tokens: Of every answer.
        left_out: See `Conditions`.
        no_second: See `no_one_by_one` there.
    """
    model: Any = loaded.model
    names = {"Python": python_version()} | {name: version(name) for name in ("torch", "transformers", "foveate")}
    return Conditions(
        loaded.name,
        device_name(model.device),
        model.config._attn_implementation,
        str(model.dtype).removeprefix("torch."),
        torch.get_num_threads(),
        new_tokens,
        ", ".join(" ".join(pair) for pair in names.items()),
        date.today().isoformat(),
        left_out,
        no_second,
    )


def round_row(size: int, batch: int, new_tokens: int, measured: Round) -> dict[str, Any]:
    """A row of the parquet file; times are those of the whole batch, what is not known is None.

    Args:
        size: Of the images, in pixels.
        batch: Questions at a time.
        new_tokens: Of every answer.
        measured: One round of one setting.
    """
    (method, budget), ms, taken = measured.key, measured.ms, measured.taken
    total = sum(ms.get(part, 0.0) for part in PARTS) if taken else ms[TOTAL]
    facts = {name: getattr(taken, name, None) for name in _FACTS}
    counted = {f"gflops_{name}": taken.operations[name] / 1e9 if taken else None for name in CONVENTIONS}
    return (
        {"size": size, "batch": batch, "method": method, "budget": budget, "round": measured.number}
        | {"new_tokens": new_tokens, "total_ms": total}
        | {f"{part}_ms": ms.get(part, 0.0) if taken else None for part in (INPUTS, *PARTS)}
        | facts
        | counted
    )


def place_of(out: Path) -> Path:
    """The folder of the measurement, looked at before anything is measured.

    Raises:
        OutputError: It cannot be written.
    """
    folder = out / "measure_speed"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}; choose another --out") from error


def write_rounds(rows: Sequence[Mapping[str, Any]], conditions: Conditions, path: Path) -> None:
    """Writes a row per setting and round as parquet, the conditions among its metadata, complete or not at all."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    told = {**(table.schema.metadata or {}), _METADATA: json.dumps(conditions._asdict()).encode()}
    with atomic_write(path) as temporary:
        pq.write_table(table.replace_schema_metadata(told), temporary)


def read_rounds(path: Path) -> tuple[pd.DataFrame, Conditions]:
    """What `write_rounds` wrote.

    Raises:
        DataError: It is not there, or is something else.
    """
    try:
        table = pq.read_table(path)
        told = json.loads((table.schema.metadata or {})[_METADATA])
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"no timed rounds in {path} ({type(error).__name__}): run `make speed` first") from error
    return table.to_pandas(), Conditions(**told)


def speed_table(rounds: pd.DataFrame) -> pd.DataFrame:
    """One row per size of the images, batch, method and budget, in the order in which they were measured.

    Times are medians over rounds, in milliseconds per question; `decode_ms` is per token. `speedup` is the geometric
    mean over rounds of the total time without compression over this one's, with its 95 % interval and p of no
    difference, Holm-corrected over the table; `vs_one_by_one` the same of the second baseline at the same budget, both
    with the time that images and words take to become tensors. `flops_ratio` are operations without compression over
    these.

    Args:
        rounds: As `read_rounds` gives them.
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
    """In plain words; what cannot be told, such as by a single round, is not claimed."""
    if row["method"] == FULL:
        return "no compression"
    if row["method"] == ONE_BY_ONE:
        return "second baseline"
    found = side(row["speedup"] - 1, row["p_holm"])
    return {1: f"{times(row['speedup'])} {FASTER}", 0: LEVEL, -1: SLOWER}[found]


def side_of(row: pd.Series) -> str:
    """The verdict without its number: `FASTER`, `SLOWER`, `LEVEL`, or that of a baseline."""
    return FASTER if str(row["verdict"]).endswith(f" {FASTER}") else str(row["verdict"])


def times(ratio: float) -> str:
    """A ratio with as many digits as tell it from 1: `1.9x`, `1.03x`."""
    return f"{ratio:.1f}x" if abs(ratio - 1) >= 0.095 else f"{ratio:.2f}x"


def groups_of(table: pd.DataFrame) -> Iterable[tuple[tuple[int, int], pd.DataFrame]]:
    """The rows of each size and batch."""
    for size, batch in table[GROUP].drop_duplicates().itertuples(index=False):
        yield (int(size), int(batch)), table[(table["size"] == size) & (table["batch"] == batch)]


def _row(
    method: str, budget: int, times: pd.DataFrame, full: pd.DataFrame, other: pd.DataFrame | None
) -> dict[str, Any]:
    times, full = times.sort_values("round"), full.sort_values("round")
    first, batch = times.iloc[0], times["batch"].iloc[0]
    known = {f"{name}_ms": (times[f"{name}_ms"] / batch).median() for name in (INPUTS, *PARTS)}
    known["decode_ms"] /= first["new_tokens"] - 1
    low, median, high = (times["total_ms"] / batch).quantile([0.25, 0.5, 0.75])
    known |= {"total_ms": median, "total_q25_ms": low, "total_q75_ms": high}
    known |= {name: first[name] for name in (*_FACTS, *(c for c in times.columns if c.startswith("gflops_")))}
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
