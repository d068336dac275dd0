"""Report of a load test: tables in one folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from foveate.analysis.load.data import TIMES, load_table
from foveate.analysis.tables import grid, write_csv, write_table

_LEGEND = (
    "{model} on {device}, {versions}, {date}; server and clients on one machine. In every round each of n clients "
    "sends its next request when the last one is answered, {new_tokens} tokens each, to both servers in turn, after a "
    "warm-up; each server keeps {cached} prompts for later questions. Requests take turns on the model, so more "
    "clients wait longer. Times in ms: median / 95th percentile over requests. Brackets hold 95 % t intervals of "
    "ratios over rounds. Verdicts rest on p < 0.05 in a t test of the logarithms, Holm-corrected over the table."
)
_NAMES = {"latency_ms": "answer", "first_token_ms": "first token", "token_ms": "per token"}


def report(rows: Sequence[Mapping[str, Any]], conditions: Mapping[str, Any], folder: Path) -> str:
    """Writes requests.csv, table.csv and table.md; returns the text to print.

    Args:
        rows: Rows of `data.request_rows`.
        conditions: Model, device, versions, date, tokens of an answer, and number of kept prompts.
        folder: Folder to write to.
    """
    requests = pd.DataFrame([dict(row) for row in rows])
    table = load_table(requests)
    parts = [_LEGEND.format(**conditions), grid([_cells(row) for _, row in table.iterrows()])]
    if errors := sorted(set(requests["error"]) - {""}):
        parts += ["Requests failed:", "\n".join(f"- {error}" for error in errors)]
    write_csv(requests, folder / "requests.csv")
    write_table(table, folder, "\n\n".join(parts) + "\n")
    return "\n\n".join([*parts, f"Tables: {folder}"])


def _cells(row: pd.Series) -> dict[str, str]:
    times = {_NAMES[name]: f"{row[f'{name}_p50']:.1f} / {row[f'{name}_p95']:.1f}" for name in TIMES}
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return {
        "method": str(row["method"]),
        "clients": str(row["concurrency"]),
        "rounds": str(row["rounds"]),
        "requests": str(row["n"]),
        "failed": str(row["failed"]),
        "requests per s": f"{row['requests_per_s']:.2f}",
        **times,
        "speedup": "-" if pd.isna(row["speedup"]) else f"{row['speedup']:.2f}{interval}",
        "verdict": str(row["verdict"]),
    }
