"""Makes the tables of docs/results/gpu.md from the files of `make bench-gpu`: `python -m benchmarks.gpu_table`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import towers
from benchmarks.gpu_file import FOLDER, OPERATIONS, TIMES, VERSIONS, read
from benchmarks.results import write_between_marks
from foveate.analysis.rounds import Estimate, mean, ratio
from foveate.analysis.tables import grid
from foveate.profiling.rows import FACTS, FULL
from foveate.profiling.speed import PARTS

PAGE = Path(__file__).parents[1] / "docs" / "results" / "gpu.md"
BEGIN = "<!-- made of benchmarks/gpu -->"
NO_GPU = "GPU"
_SETTING, _METHOD = ["model", "kernel", "batch"], ["kernel", "batch", "method"]
_NUMBERS = [*TIMES, *FACTS, *OPERATIONS, "difference", "batch", "round", "new_tokens"]
_SAVED = [f"{part}_ms" for part in ("projector", "prefill", "decode")]
_NAMES = {"vision": "tower", "scoring": "choosing", "decode": "per token"}


def table(folder: Path = FOLDER) -> pd.DataFrame:
    """Returns the rows of all files, with the column `machine`: the device, and the depth if it is reduced."""
    frame = pd.DataFrame([row for path in sorted(folder.glob("*.csv")) for row in read(path)])
    frame[_NUMBERS] = frame[_NUMBERS].apply(pd.to_numeric)
    reduced = frame["layers"] != "all"
    return frame.assign(machine=frame["device"] + np.where(reduced, ", reduced depth", ""))


def rendered(frame: pd.DataFrame) -> str:
    """Returns conditions, goals, the times of every method, and what was not measured, as Markdown."""
    machines = list(dict.fromkeys(frame["machine"]))
    if (frame["layers"] != "all").all():
        machines.append(NO_GPU)
    goals, methods = goals_of(frame), methods_of(frame)
    parts = [conditions(frame), "### Goals", side_by_side(goals, machines, _SETTING)]
    for model, rows in methods.groupby("model", sort=False):
        parts += [f"### {model}", side_by_side(rows.drop(columns="model"), machines, _METHOD)]
    return "\n\n".join([*parts, *not_measured(frame)])


def side_by_side(cells: pd.DataFrame, machines: Sequence[str], by: list[str]) -> str:
    """Returns a table with the columns of every machine side by side; those of a machine without rows are empty.

    Args:
        cells: Texts, with the columns `by` and `machine`.
        machines: The machines.
        by: The columns that name a row of the table.
    """
    wide = cells.drop_duplicates(by)[by]
    for machine in machines:
        own = cells[cells["machine"] == machine].drop(columns="machine").set_index(by)
        wide = wide.join(own.add_suffix(f" ({machine})"), on=by)
    lines: Any = wide.astype(object).where(wide.notna(), "").astype(str).to_dict("records")
    return grid(lines)


def methods_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the cells of every method on every machine: ms per question, medians over rounds, memory and shares."""
    cells = []
    for keys, rows in frame[frame["why"] == ""].groupby(["machine", *_SETTING], sort=False):
        machine, *setting = keys
        names = [name for name in dict.fromkeys(rows["method"]) if name not in towers.SIDES]
        for method in names:
            own, plain = rows[rows["method"] == method], method == FULL
            ms = {part: (own[f"{part}_ms"] / own["batch"]).median() for part in PARTS}
            ms["decode"] /= own["new_tokens"].iloc[0] - 1
            speed_up = None if plain else ratio(*_paired(rows, method, "total_ms"))
            cells.append(
                dict(zip(_SETTING, setting, strict=True))
                | {"method": method, "machine": machine}
                | {"tokens": f"{own['equivalent_tokens'].iloc[0]:.0f}"}
                | {_NAMES.get(part, part): _number(value) for part, value in ms.items()}
                | {"peak MiB": f"{own['peak_bytes'].iloc[0] / 2**20:.0f}"}
                | {"prefill reaches": "" if plain else _shown(prefill_share(rows, method), "%")}
                | {"choosing takes": "" if plain else _shown(choosing_share(rows, method), "%")}
                | {"speed-up": _shown(speed_up, "x")}
            )
    return pd.DataFrame(cells)


def goals_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the cells of every setting on every machine: medians over the methods, and the worst of them."""
    cells, measured = [], frame[frame["why"] == ""]
    for (machine, *setting), rows in measured.groupby(["machine", *_SETTING], sort=False):
        names = [name for name in dict.fromkeys(rows["method"]) if name not in (FULL, *towers.SIDES)]
        alone = measured[(measured["machine"] == machine) & (measured["batch"] == 1)]
        alone = alone[(alone["model"] == setting[0]) & (alone["kernel"] == setting[1])]
        cells.append(
            dict(zip(_SETTING, setting, strict=True))
            | {"machine": machine}
            | {"prefill reaches (goal 90 %)": _spread([prefill_share(rows, name) for name in names], min)}
            | {"choosing takes (goal below 10 %)": _spread([choosing_share(rows, name) for name in names], max)}
            | {"answers per second against batch 1 (goal 10 x)": _throughput(rows, alone)}
            | {"rows by the tap (goal at most 1 %)": _tap(rows)}
        )
    return pd.DataFrame(cells)


def prefill_share(rows: pd.DataFrame, method: str) -> Estimate | None:
    """Returns the speed-up of a method's prefill as a share in % of the ratio of the language model's operations.

    Args:
        rows: The rows of one setting.
        method: The method; None is returned if its prefill has as many operations as without compression.
    """
    column = OPERATIONS[1]
    full, own = (rows.loc[rows["method"] == name, column].iloc[0] for name in (FULL, method))
    if not own < full:
        return None
    return ratio(*_paired(rows, method, "prefill_ms"), 100 * own / full)


def choosing_share(rows: pd.DataFrame, method: str) -> Estimate | None:
    """Returns the time of choosing and merging in % of the time that fewer tokens save after the tower.

    Args:
        rows: The rows of one setting.
        method: The method; None is returned if it saves no time in some round.
    """
    full, own = _paired(rows, method, _SAVED)
    saved = full.sum(axis=1) - own.sum(axis=1)
    if (saved <= 0).any():
        return None
    return mean(100 * _paired(rows, method, "scoring_ms")[1] / saved)


def conditions(frame: pd.DataFrame) -> str:
    """Returns a line per machine: precision, depth, rounds and versions."""
    lines = []
    for machine, rows in frame.groupby("machine", sort=False):
        depths = rows.drop_duplicates(["model", "layers"])
        depth = "; ".join(
            f"{model} {layers} layers" for model, layers in zip(depths["model"], depths["layers"], strict=True)
        )
        timed = rows[(rows["method"] != FULL) & (rows["why"] == "")]
        counts = timed.groupby([*_SETTING, "method"]).size()
        versions = ", ".join(f"{name} {rows[name].iloc[0]}" for name in VERSIONS)
        rounds = f"n = {counts.min()}" + ("" if counts.min() == counts.max() else f" to {counts.max()}")
        lines.append(
            f"- {machine}: {rows['dtype'].iloc[0]}, {rounds} rounds; {depth}; {versions}, {rows['date'].max()}"
        )
    return "\n".join(lines)


def not_measured(frame: pd.DataFrame) -> list[str]:
    """Returns a list of what a model does not support, or what did not fit into memory; nothing if there is none."""
    left = frame[frame["why"] != ""].drop_duplicates(["machine", "model", "method", "why"])
    if left.empty:
        return []
    lines = [
        f"- {', '.join(dict.fromkeys(rows['method']))}, {model} ({machine}): {why}"
        for (machine, model, why), rows in left.groupby(["machine", "model", "why"], sort=False)
    ]
    return ["### Not measured", "\n".join(lines)]


def _paired(rows: pd.DataFrame, method: str, column: str | list[str]) -> tuple[Any, Any]:
    """Returns a column without compression and of a method, in the rounds that both were measured in."""
    own = rows[rows["method"] == method].set_index("round")[column]
    full = rows[rows["method"] == FULL].set_index("round")[column]
    both = own.index.intersection(full.index)
    return full.loc[both], own.loc[both]


def _throughput(rows: pd.DataFrame, alone: pd.DataFrame) -> str:
    if rows["batch"].iloc[0] == 1 or alone.empty:
        return ""
    batched, single = (some.groupby("method")["total_ms"].median() / some["batch"].iloc[0] for some in (rows, alone))
    times = (single / batched).dropna().drop(FULL, errors="ignore")
    return f"{times.median():.3g} x (lowest {times.min():.3g}, {len(times)} methods)" if len(times) else ""


def _tap(rows: pd.DataFrame) -> str:
    ms = {side: rows[rows["method"] == side].set_index("round")["vision_ms"] for side in towers.SIDES}
    if ms[towers.TAPPED].empty:
        return ""
    more = ratio(ms[towers.TAPPED], ms[towers.PLAIN])._asdict()
    time = _shown(Estimate(**more | {end: 100 * (more[end] - 1) for end in ("value", "low", "high")}), "%")
    eager = (
        "" if ms[towers.EAGER].empty else f", eager {100 * (ratio(ms[towers.EAGER], ms[towers.PLAIN]).value - 1):.3g} %"
    )
    difference = 100 * rows.loc[rows["method"] == towers.TAPPED, "difference"].max()
    return f"{time} of the tower's time{eager}; rows differ by {difference:.2g} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _spread(found: Sequence[Estimate | None], worst: Any) -> str:  # noqa: ANN401 (min or max)
    values = [one.value for one in found if one is not None]
    if not values:
        return ""
    name = "lowest" if worst is min else "highest"
    return f"{np.median(values):.3g} % ({name} {worst(values):.3g}, {len(values)} of {len(found)} methods)"


def _shown(estimate: Estimate | None, unit: str) -> str:
    if estimate is None:
        return ""
    interval = "" if np.isnan(estimate.low) else f" [{estimate.low:.3g}, {estimate.high:.3g}]"
    return f"{estimate.value:.3g}{interval} {unit}"


def main() -> None:
    """Writes the tables into the page."""
    write_between_marks(PAGE, rendered(table()), BEGIN)


if __name__ == "__main__":
    main()
