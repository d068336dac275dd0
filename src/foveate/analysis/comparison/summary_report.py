"""Report of several comparisons: one table and one figure over data sets and models."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import optuna
import pandas as pd

from foveate.analysis.cells import read_cells
from foveate.analysis.comparison.data import ROLES, comparison_of
from foveate.analysis.comparison.summary import (
    EVERY,
    Task,
    budgets_on,
    not_in_all,
    summary_table,
    task_of,
    tasks_table,
)
from foveate.analysis.comparison.summary_figures import summary_data, summary_figure
from foveate.analysis.drawing import save_figure
from foveate.analysis.tables import grid, one_decimal, paragraphs, percent, with_interval, write_csv, write_text
from foveate.core.progress import bar
from foveate.data.names import shown_name
from foveate.evaluation import EvalConfig

FILE = "summary"
_LEGEND = (
    "A task is one data set on one model. *Mean rank*: mean over the tasks of the rank of a method's accuracy among "
    "the {ranked} methods and controls that all tasks have (1 is best). *Retained*: mean over the tasks of accuracy "
    "in % of that without compression. Brackets hold 95 % percentile intervals of a bootstrap over {drawn}; {models}"
    "with few data sets they are rough. *Worst task*: the one with the smallest share retained on one half of the "
    "images, reported on the other half (Fieller's 95 % interval over images). {size}. No verdict is drawn from this "
    "table; those of each task stand in its own."
)


class Compared(NamedTuple):
    """A finished comparison, with its evaluation and the short name of its model."""

    config: EvalConfig
    study: optuna.Study
    model: str


def report_summary(compared: Sequence[Compared], keeps: Sequence[int | float], folder: Path) -> str:
    """Writes `summary.csv`, `summary.md` and `summary.png` of several comparisons; returns the text to print.

    Args:
        compared: Every data set on every model.
        keeps: The requested budgets.
        folder: Folder to write to; created if missing.
    """
    tasks = [_task(one, keeps) for one in bar(compared, "comparison", "reading records")]
    table = summary_table(tasks)
    if table.empty:
        return "No summary: no method has a cell in all tasks."
    write_csv(table, folder / f"{FILE}.csv")
    write_text(markdown(table, tasks), folder / f"{FILE}.md")
    first = table[table["model"] == table["model"].iloc[0]]
    save_figure(summary_figure(summary_data(first)), folder / f"{FILE}.png")
    parts = [_section(first, rows) for _, rows in first.groupby("budget", sort=False)]
    return paragraphs("# Summary", legend(first, tasks), *parts, _missing(tasks), f"Summary: {folder / FILE}.md")


def markdown(table: pd.DataFrame, tasks: Sequence[Task]) -> str:
    """Returns the tasks and a table per model and budget.

    Args:
        table: Table of `summary_table`.
        tasks: Its tasks.
    """
    parts = ["# Tasks", grid([_task_row(task, row) for task, (_, row) in _rows(tasks)])]
    parts.append("\n".join(f"- {task.data}, {task.model}: {task.caveat}" for task in tasks if task.caveat))
    for model, rows in table.groupby("model", sort=False):
        some = [task for task in tasks if model in (EVERY, task.model)]
        parts += [f"# {_name(str(model), some)}", legend(rows, some)]
        parts += [_section(rows, here) for _, here in rows.groupby("budget", sort=False)]
        parts.append(_missing(some))
    return paragraphs(*parts) + "\n"


def legend(table: pd.DataFrame, tasks: Sequence[Task]) -> str:
    """Returns what the columns mean, with the number of questions and images.

    Args:
        table: Rows of one model in `summary_table`.
        tasks: Their tasks.
    """
    data, models, row = len({task.data for task in tasks}), len({task.model for task in tasks}), table.iloc[0]
    ranked = " to ".join(str(count) for count in sorted(set(table["ranked"])))
    size = f"{data} data sets, {models} models, n = {row['n']:,} questions about {row['images']:,} images"
    return _LEGEND.format(
        ranked=ranked,
        drawn="data sets and their images" if data > 1 else "the images of the one data set",
        models="the models are not resampled; " if models > 1 else "",
        size=size.replace("1 data sets", "1 data set").replace(" 1 models", " 1 model"),
    )


def _task(one: Compared, keeps: Sequence[int | float]) -> Task:
    comparison = comparison_of(one.study)
    frames = read_cells(comparison.cells, one.config.out)
    names = (shown_name(one.config.data), one.model)
    return task_of(frames, comparison.roles, names, budgets_on(keeps, comparison.patches))


def _rows(tasks: Sequence[Task]) -> list[tuple[Task, tuple[object, pd.Series]]]:
    return list(zip(tasks, tasks_table(tasks).iterrows(), strict=True))


def _task_row(task: Task, row: pd.Series) -> dict[str, str]:
    return {
        "data": row["data"],
        "model": row["model"],
        "n": f"{row['n']:,}",
        "images": f"{row['images']:,}",
        "without compression": percent(row["full"]),
        "without image": percent(row["blind"]),
        "better with the image": "no" if task.caveat else "yes",
    }


def _section(table: pd.DataFrame, rows: pd.DataFrame) -> str:
    several, budget = table["model"].iloc[0] == EVERY, rows["budget"].iloc[0]
    return f"## Equivalent tokens: {budget}\n\n{grid([_cells(row, several) for _, row in rows.iterrows()])}"


def _cells(row: pd.Series, several: bool) -> dict[str, str]:
    worst = f"{row['worst_data']}, {row['worst_model']}" if several and row["worst_data"] else row["worst_data"]
    return {
        "method": row["method"],
        "where": ROLES[row["role"]],
        "mean rank": with_interval(row, ("mean_rank", "rank_low", "rank_high"), one_decimal),
        "retained, %": with_interval(row, ("retained", "retained_low", "retained_high"), percent),
        "worst task": worst or "-",
        "retained there, %": with_interval(row, ("worst_retained", "worst_low", "worst_high"), percent),
        "n there": f"{row['worst_n']:,}",
    }


def _missing(tasks: Sequence[Task]) -> str:
    missing = [f"{name} ({count} of {len(tasks)} tasks)" for name, count in not_in_all(tasks).items()]
    wrong = [f"{task.data}, {task.model}" for task in tasks if not task.sums["full", ""].sum()]
    return paragraphs(
        f"Not in all tasks, and so not ranked: {', '.join(missing)}." if missing else "",
        f"Not in the shares retained, because without compression no answer is right: {'; '.join(wrong)}."
        if wrong
        else "",
    )


def _name(model: str, tasks: Sequence[Task]) -> str:
    return f"All {len({task.model for task in tasks})} models" if model == EVERY else f"Model {model}"
