"""The file of `make bench-gpu`: a row per measured round, written at once."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch

from foveate.core.errors import FoveateError
from foveate.profiling.clock import device_name
from foveate.profiling.rows import FACTS
from foveate.profiling.speed import PARTS

FOLDER = Path(__file__).parent / "gpu"
BLOCK = ("model", "layers", "kernel", "batch")
"""The columns whose values the settings share that take turns."""
VERSIONS = ("torch", "transformers", "python", "foveate")
TIMES = ("total_ms", *(f"{part}_ms" for part in PARTS))
OPERATIONS = ("gflops_foveate", "gflops_language model")
COLUMNS = (
    *("device", "dtype", *BLOCK, "size", "method", "budget", "round", "new_tokens"),
    *(*TIMES, *FACTS, *OPERATIONS, "difference", "why", *VERSIONS, "date"),
)


@dataclass(frozen=True)
class Results:
    """The rows of one device, those of earlier runs included.

    Attributes:
        path: The file.
        common: Values of the columns that all new rows share.
        rows: The rows, whose values are texts.
    """

    path: Path
    common: Mapping[str, str]
    rows: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, device: str, dtype: str) -> "Results":
        """Reads the file of a device, or begins one.

        Raises:
            FoveateError: It was measured in another precision or with other versions, whose times are not comparable.
        """
        name = device_name(device)
        path = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.csv"
        fixed = {"device": name, "dtype": dtype, "torch": torch.__version__, "python": python_version()}
        fixed |= {name: version(name) for name in ("transformers", "foveate")}
        if path.exists():
            _remove_cut_line(path)
        rows = read(path) if path.exists() else []
        if other := {key: rows[-1][key] for key in fixed if rows and rows[-1][key] != fixed[key]}:
            raise FoveateError(
                f"{path} was measured with {_listed(other)}, and now there is "
                f"{_listed({key: fixed[key] for key in other})}: give another --out, or remove the file"
            )
        return cls(path, fixed | {"date": datetime.now(UTC).date().isoformat()}, rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes a row."""
        text = {name: _text({**self.common, **row}.get(name)) for name in COLUMNS}
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(text)
        self.rows.append(text)

    def of_block(self, block: Mapping[str, Any]) -> list[dict[str, str]]:
        """Returns the rows of a block."""
        return [row for row in self.rows if all(row[name] == str(block[name]) for name in BLOCK)]

    def missing(self, block: Mapping[str, Any], methods: Sequence[str], least: int) -> list[str]:
        """Returns the methods of a block with fewer than `least` rounds, those that cannot run left out."""
        rows = self.of_block(block)
        impossible = {row["method"] for row in rows if row["why"]}
        rounds = [row["method"] for row in rows]
        return [name for name in methods if name not in impossible and rounds.count(name) < least]

    def next_round(self, block: Mapping[str, Any]) -> int:
        """Returns the number after that of a block's last round."""
        return 1 + max((int(row["round"]) for row in self.of_block(block) if row["round"]), default=-1)


def read(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a file, whose values are texts."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _remove_cut_line(path: Path) -> None:
    """Removes the rest of a line that a kill has cut short, after which no row could be written."""
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def _text(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
