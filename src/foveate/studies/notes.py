"""Notes of studies and trials in the Optuna dashboard, in Markdown."""

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import optuna
from optuna.trial import TrialState
from optuna_dashboard import get_note, save_note

from foveate.evaluation import EvalConfig
from foveate.evaluation.run import data_of

_LINE = 88  # characters; the dashboard widens its page for longer lines
_MEASURED = {
    "accuracy": ("accuracy", "{:.4f}"),
    "quality": ("mean log-probability of the reference answer", "{:.4f}"),
    "tokens": ("equivalent tokens", "{:.1f}"),
    "given": ("tokens given to the language model", "{:.1f}"),
    "evidence_recall": ("evidence recall", "{:.3f}"),
    "latency": ("ms per question", "{:.2f}"),
    "accuracy_loss": ("points of accuracy lost", "{:.2f}"),
    "n": ("questions answered", "{:d}"),
}
_UNRANKED = (
    "A control or an oracle: it has no objective value, so that the best trial of the study is never one. What it "
    "measured stands here and in the study's tables."
)


def note_study(study: optuna.Study, text: str) -> None:
    """Saves the study's note, under its name as a title, unless it is there already."""
    body = f"# {study.study_name}\n\n{text}"
    if get_note(study) != body:
        save_note(study, body)


def unfinished_note(study: optuna.Study, config: EvalConfig, total: int) -> str:
    """Returns the note of a study that has not ended: what is running.

    Args:
        study: The study.
        config: Its configuration.
        total: Number of trials that it shall have at least.
    """
    planned = max(total, sum(trial.state != TrialState.FAIL for trial in study.get_trials(deepcopy=False)))
    questions = len(data_of(config)[0])
    return (
        f"Running, or stopped before its end: {planned} trials of model `{config.model}` on {questions:,} questions of "
        f"`{config.data}`, split `{config.split}`; goals: {', '.join(study.user_attrs['goals'])}.\n\n"
        "The finding replaces this note when the study has ended. The command that began it resumes it."
    )


def trial_note(attributes: Mapping[str, Any], compressor: str) -> str:
    """Returns the note of a trial.

    Args:
        attributes: The trial's user attributes.
        compressor: The `repr` of its compressor.
    """
    known = {key: row for key, row in _MEASURED.items() if key in attributes}
    rows = [f"| {name} | {form.format(attributes[key])} |" for key, (name, form) in known.items()]
    folded = "\n".join(wrap(compressor, _LINE, break_on_hyphens=False))
    parts = [
        f"# {attributes['label']}",
        "" if attributes["ranked"] else _UNRANKED,
        f"Kept {attributes['given']:.1f} tokens per question on average, chosen by\n\n```\n{folded}\n```",
        "\n".join(["| measured | |", "| :-- | --: |", *rows]),
        f"Stopped early: {attributes['stopped']}." if attributes.get("stopped") else "",
        f"Records: `records/{attributes['run_id']}`",
    ]
    return "\n\n".join(part for part in parts if part)
