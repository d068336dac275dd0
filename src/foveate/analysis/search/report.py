"""Report of a finished search: tables and figures in one folder."""

from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from foveate.analysis.cells import cells_of, failures
from foveate.analysis.drawing import save_figure
from foveate.analysis.records import failure_note, read_records
from foveate.analysis.search.confirmed import confirmed_table, front_data
from foveate.analysis.search.data import (
    Importance,
    Proxy,
    importance_data,
    proxy_data,
    saving_data,
    singles_data,
    trials_of,
    trials_table,
    weights_data,
)
from foveate.analysis.search.figures import (
    confirmed_figure,
    front_figure,
    history_figure,
    importance_figure,
    proxy_figure,
    weights_figure,
)
from foveate.analysis.statistics import mean_interval
from foveate.analysis.tables import (
    VERDICTS,
    accuracy,
    against_full,
    between,
    grid,
    judged,
    p_value,
    paragraphs,
    percent,
    write_table,
)
from foveate.analysis.verdicts import side, too_few
from foveate.core.storage import atomic_write
from foveate.evaluation import EvalConfig
from foveate.evaluation.records import RecordFolder
from foveate.studies.notes import note_study
from foveate.studies.search import finished, winners
from foveate.studies.study import keep_artifacts

_LEGEND = (
    "n = {n:,} questions about {images:,} images of a split that the search did not use; accuracy in %, differences in "
    "points, paired by question, with 95 % intervals over images. *Winner gains*: winner of that budget (the most "
    "accurate on the searched split) minus row; its verdict rests on p < 0.05 in a permutation test over images, "
    "Holm-corrected over the table. *Optimism*: accuracy on the searched split minus accuracy on this split, for "
    "independent images."
)
_SIGNS = {1: "positive", -1: "negative", 0: VERDICTS[0]}


def report(study: optuna.Study, test: optuna.Study | None, config: EvalConfig) -> str:
    """Writes tables and figures beside the search and into its artifacts; returns the text to print.

    Args:
        study: The search.
        test: The study that confirms its winners; None if there is no winner.
        config: Configuration of the search.
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
    parts = [_searched(study), _winners(found, config.out)]
    parts += [failure_note(RecordFolder(config.out / "records" / found[0].user_attrs["run_id"]))] if found else []
    if test is not None:
        confirmed = _confirmed(study, test, found, config.out)
        note_study(test, paragraphs(*confirmed))
        parts += confirmed
    keep_artifacts(study, folder)
    note_study(study, paragraphs(*parts))
    return paragraphs(*parts, _proxy(study, proxy), _importances(importances), f"Tables and figures: {folder}")


def markdown(table: pd.DataFrame, max_loss: float | None = None) -> str:
    """Returns the table of the confirming split as Markdown.

    Args:
        table: Table of `confirmed_table`.
        max_loss: Points of accuracy that the winner may lose against `full`; None means no constraint.
    """
    tests = int(table["p_holm"].notna().sum())
    few = too_few(int(table["images"].iloc[0]), tests, 1 + int(table["seeds"].max())) if tests else ""
    legend = _LEGEND.format(n=table["n"].iloc[0], images=table["images"].iloc[0])
    rows = [_cells(row, not few, max_loss) for _, row in table.iterrows()]
    return paragraphs(legend, few, grid(rows)) + "\n"


def constraint_verdict(row: pd.Series, max_loss: float) -> str:
    """Returns whether the interval of a row's loss against `full` is within or beyond a limit in points."""
    least, most = -100 * row["delta_ci_high"], -100 * row["delta_ci_low"]
    return "within" if most <= max_loss else "beyond" if least > max_loss else VERDICTS[0]


def _confirmed(study: optuna.Study, test: optuna.Study, found: list[FrozenTrial], out: Path) -> list[str]:
    folder, table = out / study.study_name, confirmed_table(study, test, out)
    text = markdown(table, study.user_attrs.get("max_loss"))
    write_table(table, folder, text)
    save_figure(confirmed_figure(table), folder / "test.png")
    if len(study.directions) > 1:
        save_figure(front_figure(front_data(study, test, found, table)), folder / "front.png")
    return [text, failures(cells_of(test), out)]


def _draw_weights(study: optuna.Study, found: list[FrozenTrial], out: Path) -> None:
    weights = weights_data(study, found)
    if weights["role"].isin(["winner", "among the ten best"]).any():
        figure = weights_figure(weights, study.user_attrs["feature_layer"], singles_data(study, out))
        save_figure(figure, out / study.study_name / "weights.png")


def _searched(study: optuna.Study) -> str:
    saving = saving_data(study)
    row = {
        "searched": study.user_attrs["searched"],
        "goals": ", ".join(study.user_attrs["goals"]),
        "trials": str(len(finished(study))),
        "compressors": str(saving.trials),
        "stopped early": str(saving.stopped),
        "questions answered": f"{saving.answered:,} of {saving.full:,}",
    }
    return grid([row])


def _winners(found: list[FrozenTrial], out: Path) -> str:
    if not found:
        return "No trial keeps the constraint, so there is no winner: allow a larger --max-loss or more --trials."
    rows = []
    for trial in found:
        facts = trial.user_attrs
        weights = ", ".join(f"layer {i}: {weight:.2f}" for i, weight in enumerate(facts["weights"]) if weight)
        records = read_records(out, facts["run_id"])
        mean, low, high, n = mean_interval(records["score"], records["image_id"])
        rows.append(
            {
                "winner": f"trial {trial.number}",
                "label": facts["label"],
                "compressor": weights or ", ".join(f"{name}={value}" for name, value in trial.params.items()),
                "tokens": f"{facts['tokens']:.1f}",
                "accuracy, searched split": f"{percent(mean)} [{percent(low)}, {percent(high)}]",
                "log-probability": f"{facts['quality']:.3f}",
                "n": f"{n:,}",
            }
        )
    return grid(rows)


def _proxy(study: optuna.Study, proxy: Proxy | None) -> str:
    """Returns a table of the rank correlations between the proxy's signals and the measures."""
    facts = study.user_attrs.get("proxy")
    if not facts:
        return ""
    if proxy is None:
        return f"No proxy: {facts.get('why', 'too few of its trials were evaluated')}."
    names = {"agreement": f"agreement with {facts['kind']}", "evidence_recall": "evidence kept"}
    rows = [
        {
            "proxy": names[signal],
            "measure": {"quality": "log-probability"}.get(measure, measure),
            "Spearman": "-" if pd.isna(rho.value) else f"{rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]",
            "p": p_value(rho.p),
            "trials": str(rho.n),
            "verdict": _SIGNS[side(rho.value, rho.p)],
        }
        for (signal, measure), rho in proxy.correlations.items()
    ]
    return grid(rows)


def _importances(importances: list[Importance]) -> str:
    """Returns a table of the five most important dimensions of every goal."""
    rows = []
    for one in importances:
        row = {"goal": one.goal, "dimension": "-", "importance, %": "-", "trials": str(one.trials), "note": one.why}
        shares = list(one.shares.items())[:5]
        named = [{"dimension": k, "importance, %": percent(v), "trials": str(one.rests[k])} for k, v in shares]
        rows += [row | cells for cells in named or [{}]]
    return grid(rows)


def _cells(row: pd.Series, verdicts: bool, max_loss: float | None) -> dict[str, str]:
    likely, low, high = (f"{row[name]:.3f}" for name in ("log_probability", "log_low", "log_high"))
    cells = {
        "scorer": f"{row['scorer']} ({row['seeds']} seeds)" if row["seeds"] > 1 else row["scorer"],
        "tokens": str(row["keep"]),
        "accuracy": accuracy(row),
        "log-probability": likely if low == "nan" else f"{likely} [{low}, {high}]",
        "winner gains": between(row, ("winner_gains", "gain_low", "gain_high")),
        "p": p_value(row["p_holm"]),
        "verdict": judged(row["winner_gains"], row["p_holm"]) if verdicts else "",
        "optimism": between(row, ("optimism", "optimism_low", "optimism_high")),
    }
    if max_loss is not None:
        kept = constraint_verdict(row, max_loss) if row["family"] == "winner" else ""
        cells |= {"vs full": against_full(row), f"loss of at most {max_loss:g} points": kept}
    return cells
