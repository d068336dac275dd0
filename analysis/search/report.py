"""What a search writes and prints."""

from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from analysis.ablation.data import cells_of
from analysis.benchmarks.data import failures, not_asked
from analysis.drawing import save_figure
from analysis.records import read_records
from analysis.search.answer import flattered, foretold, kept_to, mattered, verdict
from analysis.search.confirmed import confirmed_table, front_data
from analysis.search.data import (
    importance_data,
    proxy_data,
    saving_data,
    singles_data,
    trials_of,
    trials_table,
    weights_data,
)
from analysis.search.figures import (
    confirmed_figure,
    front_figure,
    history_figure,
    importance_figure,
    proxy_figure,
    weights_figure,
)
from analysis.statistics import mean_interval
from analysis.tables import accuracy, between, grid, p_value, percent, write_table
from foveate.core.storage import atomic_write
from foveate.evaluation import EvalConfig
from foveate.evaluation.records import RecordFolder
from foveate.studies.search import finished, winners
from foveate.studies.study import keep_artifacts

_LEGEND = (
    "n = {n:,} questions about {images:,} images of a split that the search never saw. Accuracy in %, differences in "
    "points; in brackets the 95 % interval over images. *Winner gains* is paired by question; p: permutation test over "
    "images, Holm-corrected over this table. Where several of a front share a budget, the winner is the most accurate "
    "of them on the searched split. *Optimism* is the accuracy of the same compressor on the searched split "
    "minus that on this one, with the interval of two independent samples of images."
)


def report(study: optuna.Study, test: optuna.Study | None, config: EvalConfig) -> str:
    """Writes tables and figures beside the search and into its artifacts; returns what to print.

    Args:
        study: The search.
        test: The study that confirms its winner; None where there is no winner to confirm.
        config: Of the search.
    """
    folder, found, proxy = config.out / study.study_name, winners(study), proxy_data(study)
    importances = importance_data(study)
    with atomic_write(folder / "trials.csv") as path:
        trials_table(study).to_csv(path, index=False, lineterminator="\n")
    save_figure(importance_figure(importances), folder / "importance.png")
    if trials_of(study):
        save_figure(history_figure(study), folder / "history.png")
    _draw_weights(study, found, config.out)
    if proxy:
        save_figure(proxy_figure(proxy, study.user_attrs["proxy"]["kind"]), folder / "proxy.png")
    parts = [_tried(study), _best(found, config.out)]
    parts += [not_asked(RecordFolder(config.out / "records" / found[0].user_attrs["run_id"]))] if found else []
    if test is not None:
        parts += _confirmed(study, test, found, config.out)
    keep_artifacts(study, folder)
    parts += [foretold(study, proxy), mattered(importances), f"Tables and figures: {folder}"]
    return "\n\n".join(part for part in parts if part)


def markdown(table: pd.DataFrame) -> str:
    """The table for readers."""
    legend = _LEGEND.format(n=table["n"].iloc[0], images=table["images"].iloc[0])
    return f"{legend}\n\n{_rows(table)}\n"


def _confirmed(study: optuna.Study, test: optuna.Study, found: list[FrozenTrial], out: Path) -> list[str]:
    folder, table = out / study.study_name, confirmed_table(study, test, out)
    write_table(table, folder, markdown(table))
    save_figure(confirmed_figure(table), folder / "test.png")
    if len(study.directions) > 1:
        save_figure(front_figure(front_data(study, test, found, table)), folder / "front.png")
    said = [_rows(table), verdict(table), kept_to(study.user_attrs.get("max_loss"), table), flattered(table)]
    return [*said, failures(cells_of(test), out)]


def _draw_weights(study: optuna.Study, found: list[FrozenTrial], out: Path) -> None:
    weights = weights_data(study, found)
    if weights["who"].isin(["winner", "among the ten best"]).any():
        figure = weights_figure(weights, study.user_attrs["feature_layer"], singles_data(study, out))
        save_figure(figure, out / study.study_name / "weights.png")


def _tried(study: optuna.Study) -> str:
    saved = saving_data(study)
    share = f" ({percent(saved.answered / saved.full)} %)" if saved.full else ""
    return (
        f"Searched {study.user_attrs['searched']} for {' and '.join(study.user_attrs['goals'])}: "
        f"{len(finished(study))} trials with {saved.trials} different compressors, {saved.stopped} of them stopped "
        f"early; {saved.answered:,} of {saved.full:,} questions answered{share}."
    )


def _best(found: list[FrozenTrial], out: Path) -> str:
    if not found:
        return "No trial keeps the constraint, so there is no winner: allow a larger --max-loss or more --trials."
    lines = []
    for trial in found:
        notes = trial.user_attrs
        weights = ", ".join(f"layer {i}: {weight:.2f}" for i, weight in enumerate(notes["weights"]) if weight)
        records = read_records(out, notes["run_id"])
        mean, low, high, n = mean_interval(records["score"], records["image_id"])
        lines.append(
            f"Trial {trial.number} ({notes['label']}; {weights or notes['compressor']}) with {notes['tokens']:.1f} "
            f"tokens: accuracy {percent(mean)} % [{percent(low)}, {percent(high)}], log-probability "
            f"{notes['quality']:.3f} on the searched split (n = {n:,})."
        )
    return "\n".join([*lines, "These are the questions that it was picked on, which flatters it."])


def _rows(table: pd.DataFrame) -> str:
    return grid([_shown(row) for _, row in table.iterrows()])


def _shown(row: pd.Series) -> dict[str, str]:
    likely, low, high = (f"{row[name]:.3f}" for name in ("log_probability", "log_low", "log_high"))
    return {
        "scorer": f"{row['scorer']} ({row['seeds']} seeds)" if row["seeds"] > 1 else row["scorer"],
        "tokens": str(row["keep"]),
        "accuracy": accuracy(row),
        "log-probability": likely if low == "nan" else f"{likely} [{low}, {high}]",
        "winner gains": between(row, ("winner_gains", "gain_low", "gain_high")),
        "p": p_value(row["p_holm"]),
        "optimism": between(row, ("optimism", "optimism_low", "optimism_high")),
    }
