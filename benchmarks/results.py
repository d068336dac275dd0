"""Table of all benchmark results with machine, versions and promises.

`results.csv` has one row per name and machine, which a new measurement replaces; the table in `README.md` is made from
it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
import pandas as pd
import torch

from foveate.analysis.rounds import Estimate
from foveate.core.storage import atomic_write
from foveate.profiling.clock import device_name

FOLDER = Path(__file__).parent
RESULTS, README = FOLDER / "results.csv", FOLDER / "README.md"
BEGIN, END = "<!-- made of results.csv -->", "<!-- end -->"
HOLDS, OPEN, MISSED = "holds", "open", "missed"
MACHINE = ["cpu", "cores", "threads"]
VERSIONS = ["torch", "transformers", "python", "foveate"]


@dataclass(frozen=True)
class Result:
    """A number with its interval and promise.

    Attributes:
        name: Name of the row: what is measured, and what it is compared with.
        estimate: The number.
        unit: Unit, such as x, % or MiB.
        at_least: Promised lower limit, or None.
        at_most: Promised upper limit, or None.
    """

    name: str
    estimate: Estimate
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        """`holds` or `missed` if the whole interval agrees, `open` otherwise, an empty string without a promise."""
        return verdict(self.row())

    def row(self) -> dict[str, Any]:
        """Returns the columns other than machine and versions."""
        limits = {"at_least": self.at_least, "at_most": self.at_most}
        numbers = {side: np.nan if limit is None else limit for side, limit in limits.items()}
        return {"name": self.name, **self.estimate._asdict(), "unit": self.unit, **numbers}


def note(result: Result, path: Path = RESULTS) -> None:
    """Writes a result into the table; it replaces the row of this name and machine.

    Args:
        result: The result.
        path: File of the table; created if missing.
    """
    row = pd.DataFrame([{**result.row(), **conditions()}])
    table = pd.concat([read(path), row], ignore_index=True) if path.exists() else row
    table = table.drop_duplicates(["name", *MACHINE], keep="last").sort_values([*MACHINE, "name"])
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def conditions() -> dict[str, Any]:
    """Returns the machine, the versions and the date."""
    return {
        "cpu": device_name("cpu"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": python_version(),
        "foveate": version("foveate"),
        "date": datetime.now(UTC).date().isoformat(),
    }


def read(path: Path = RESULTS) -> pd.DataFrame:
    """Reads the table."""
    table = pd.read_csv(path, dtype=dict.fromkeys([*VERSIONS, "date"], str))
    return table.assign(unit=table["unit"].fillna(""))


def rendered(table: pd.DataFrame) -> str:
    """Returns the table as Markdown, one section per machine."""
    sections = []
    for (cpu, cores, threads), rows in table.groupby(MACHINE):
        lines = ["| | measured | rounds | promised | verdict |", "|:--|--:|--:|--:|:--|"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows.to_dict("records")]
        sections.append(
            f"### {cpu}, {cores} cores, {threads} threads\n\n" + "\n".join(lines) + f"\n\n{_versions(rows)}"
        )
    return "\n\n".join(sections)


def render(path: Path = README, results: Path = RESULTS) -> None:
    """Writes the table into the page, between its two marks.

    Args:
        path: File of the page.
        results: File of the table.
    """
    write_between_marks(path, rendered(read(results)))


def write_between_marks(path: Path, text: str, begin: str = BEGIN) -> None:
    """Replaces what stands between a mark that begins a generated part of a page and the next end of one.

    Args:
        path: File of the page.
        text: The new text.
        begin: The mark.
    """
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(END)
    with atomic_write(path) as temporary:
        temporary.write_text(f"{before}{begin}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def summary(names: list[str], path: Path = RESULTS) -> str:
    """Returns these rows of this machine, for a terminal."""
    now = conditions()
    rows = [r for r in read(path).to_dict("records") if r["name"] in names and all(r[k] == now[k] for k in MACHINE)]
    cells = pd.DataFrame([_cells(row) for row in rows], columns=["", "measured", "rounds", "promised", "verdict"])
    return cells.to_string(index=False)


def verdict(row: Mapping[Any, Any]) -> str:
    """Returns whether a row of the table keeps its promise; see `Result.verdict`."""
    least, most = row["at_least"], row["at_most"]
    if np.isnan(least) and np.isnan(most):
        return ""
    least, most = (-np.inf if np.isnan(least) else least), (np.inf if np.isnan(most) else most)
    if least <= row["low"] and row["high"] <= most:
        return HOLDS
    return MISSED if row["high"] < least or row["low"] > most else OPEN


def _cells(row: Mapping[Any, Any]) -> list[str]:
    promised = [f"{word} {row[key]:g}" for key, word in (("at_least", "at least"), ("at_most", "at most"))]
    found = f"{row['value']:.3g}" + ("" if np.isnan(row["low"]) else f" [{row['low']:.3g}, {row['high']:.3g}]")
    limits = " and ".join(text for text in promised if not text.endswith("nan"))
    return [row["name"], f"{found} {row['unit']}".strip(), str(row["n"]), limits, verdict(row)]


def _versions(rows: pd.DataFrame) -> str:
    dates = sorted(set(rows["date"]))
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return ", ".join(f"{name} {', '.join(sorted(set(rows[name])))}" for name in VERSIONS) + f"; measured {days}."
