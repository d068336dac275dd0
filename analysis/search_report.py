"""What a search writes and prints."""

from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from analysis.drawing import save_figure
from analysis.search import Proxy, confirmed_table, importance_data, proxy_data, saving_data, trials_table, weights_data
from analysis.search_figures import confirmed_figure, history_figure, importance_figure, proxy_figure, weights_figure
from analysis.tables import accuracy, grid, p_value, percent, points, write_table
from foveate.evaluation import EvalConfig
from foveate.studies.search import winners
from foveate.studies.study import keep_artifacts

_LEGEND = (
    "n = {n:,} questions about {images:,} images of a split that the search never saw. Accuracy in %, differences in "
    "points; in brackets the 95 % interval by bootstrap over images. *Winner gains* is paired by question; p: "
    "sign-flip test, Holm-corrected over this table. *Optimism* is the accuracy of the same compressor on the searched "
    "split minus that on this one."
)


def report(study: optuna.Study, test: optuna.Study, config: EvalConfig) -> str:
    """Writes tables and figures beside the search and into its artifacts; returns what to print.

    Args:
        study: The search.
        test: The study that confirms its winner.
        config: Of the search.
    """
    folder = config.out / study.study_name
    found, proxy = winners(study), proxy_data(study)
    table = confirmed_table(study, test, config.out)
    write_table(table, folder, markdown(table))
    trials_table(study).to_csv(folder / "trials.csv", index=False, lineterminator="\n")
    _draw(study, found, table, proxy, folder)
    keep_artifacts(study, folder)
    parts = [_tried(study), _best(found), grid([_shown(row) for _, row in table.iterrows()])]
    parts += [_foretold(study, proxy), _mattered(study), verdict(table), f"Tables and figures: {folder}"]
    return "\n\n".join(part for part in parts if part)


def markdown(table: pd.DataFrame) -> str:
    """The table for readers."""
    legend = _LEGEND.format(n=table["n"].iloc[0], images=table["images"].iloc[0])
    return f"{legend}\n\n{grid([_shown(row) for _, row in table.iterrows()])}\n"


def verdict(table: pd.DataFrame) -> str:
    """Whether the search found something better than what needs no search."""
    sentences = []
    for rival in ("best single layer", "uniform ensemble", "published default"):
        for _, row in table[table["scorer"] == rival].iterrows():
            sure = row["p_holm"] < 0.05
            word = (
                "better than"
                if sure and row["winner_gains"] > 0
                else "worse than"
                if sure
                else "not shown to differ from"
            )
            gain = f"{points(row['winner_gains'])} points [{points(row['gain_low'])}, {points(row['gain_high'])}]"
            sentences.append(
                f"At {row['keep']} tokens the winner is {word} the {rival}: {gain}, p {p_value(row['p_holm'])}."
            )
    return "\n".join(sentences)


def _draw(
    study: optuna.Study, found: list[FrozenTrial], table: pd.DataFrame, proxy: Proxy | None, folder: Path
) -> None:
    save_figure(history_figure(study), folder / "history.png")
    save_figure(importance_figure(importance_data(study)), folder / "importance.png")
    weights = weights_data(study, found)
    if "winner" in set(weights["who"]):
        save_figure(weights_figure(weights, study.user_attrs["feature_layer"]), folder / "weights.png")
    if proxy:
        save_figure(proxy_figure(proxy, study.user_attrs["rung"]["kind"]), folder / "proxy.png")
    save_figure(confirmed_figure(table), folder / "test.png")


def _tried(study: optuna.Study) -> str:
    saved = saving_data(study)
    return (
        f"Searched {study.user_attrs['searched']} for {' and '.join(study.user_attrs['goals'])}: "
        f"{len(study.trials)} trials with {saved.trials} different compressors, {saved.stopped} of them stopped early; "
        f"{saved.answered:,} of {saved.full:,} questions answered ({percent(saved.answered / saved.full)} %)."
    )


def _best(found: list[FrozenTrial]) -> str:
    lines = []
    for trial in found:
        notes = trial.user_attrs
        weights = ", ".join(f"layer {i}: {weight:.2f}" for i, weight in enumerate(notes["weights"]) if weight)
        lines.append(
            f"Trial {trial.number} ({notes['label']}; {weights or notes['compressor']}) with {notes['tokens']:.1f} "
            f"tokens: accuracy {percent(notes['accuracy'])} %, log-probability {notes['quality']:.3f} on the searched "
            "split."
        )
    return "\n".join(lines)


def _foretold(study: optuna.Study, proxy: Proxy | None) -> str:
    rung = study.user_attrs.get("rung")
    if not rung:
        return ""
    if proxy is None:
        return f"No first rung: {rung.get('why', 'too few of its trials were evaluated')}."
    return (
        f"First rung: agreement with {rung['kind']} ranks accuracy with rho {proxy.rho:.2f} [{proxy.low:.2f}, "
        f"{proxy.high:.2f}], p {p_value(proxy.p)}, over {len(proxy.trials)} proposals; kept evidence with rho "
        f"{proxy.evidence_rho:.2f}."
    )


def _mattered(study: optuna.Study) -> str:
    lines = []
    for one in importance_data(study):
        shares = ", ".join(f"{name} {percent(share)} %" for name, share in list(one.shares.items())[:5])
        lines.append(f"Importance for {one.goal} over {one.trials} trials: {shares or 'the trials do not tell'}.")
    return "\n".join(lines)


def _shown(row: pd.Series) -> dict[str, str]:
    return {
        "scorer": f"{row['scorer']} ({row['seeds']} seeds)" if row["seeds"] > 1 else row["scorer"],
        "tokens": str(row["keep"]),
        "accuracy": accuracy(row),
        "log-probability": f"{row['log_probability']:.3f} [{row['log_low']:.3f}, {row['log_high']:.3f}]",
        "winner gains": _between(row, ("winner_gains", "gain_low", "gain_high")),
        "p": p_value(row["p_holm"]),
        "optimism": _between(row, ("optimism", "optimism_low", "optimism_high")),
    }


def _between(row: pd.Series, names: tuple[str, str, str]) -> str:
    mean, low, high = (points(row[name]) for name in names)
    return "-" if mean == "-" else f"{mean} [{low}, {high}]"
