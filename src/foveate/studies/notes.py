"""What the dashboard shows of a trial besides its values: a note in words, what was kept, the records."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna_dashboard import save_note

from foveate.evaluation import EvalConfig
from foveate.evaluation.records import RecordFolder

ARTIFACTS = "artifacts"  # folder beside the study
_ROWS = {
    "accuracy": ("accuracy", "{:.4f}"),
    "quality": ("mean log-probability of the reference answer", "{:.4f}"),
    "tokens": ("equivalent tokens", "{:.1f}"),
    "given": ("tokens given to the language model", "{:.1f}"),
    "evidence_recall": ("evidence recall", "{:.3f}"),
    "latency": ("ms per question", "{:.2f}"),
    "accuracy_loss": ("points of accuracy lost", "{:.2f}"),
    "n": ("questions answered", "{:d}"),
}


def note(
    trial: optuna.Trial,
    config: EvalConfig,
    folder: RecordFolder,
    draw: Callable[[EvalConfig, pa.Table], bytes] | None,
) -> None:
    """Writes the trial's note and hands its records and figure to the artifact store beside the study.

    Args:
        trial: With its attributes set.
        config: Of its evaluation.
        folder: Its records.
        draw: Makes a PNG of what it kept; None draws none.
    """
    save_note(trial, note_text(trial.user_attrs))
    records = folder.read()
    place = config.out / trial.study.study_name / ARTIFACTS
    place.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(place)
    known = {meta.filename for meta in get_all_artifact_meta(trial)}  # of a worker that died before it could say so
    with TemporaryDirectory() as scratch:
        made = {"records.parquet": Path(scratch) / "records.parquet", "kept.png": Path(scratch) / "kept.png"}
        pq.write_table(records, made["records.parquet"])
        if draw:
            made["kept.png"].write_bytes(draw(config, records))
        for name, path in made.items():
            if path.exists() and name not in known:
                upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)


def note_text(attributes: Mapping[str, object]) -> str:
    """A trial's note in Markdown."""
    rows = [f"| {name} | {form.format(attributes[key])} |" for key, (name, form) in _ROWS.items() if key in attributes]
    parts = [
        f"# {attributes['label']}",
        f"Kept {attributes['given']:.1f} tokens per question on average, chosen by\n\n`{attributes['compressor']}`",
        "\n".join(["| measured | |", "| :-- | --: |", *rows]),
        f"Stopped early: {attributes['stopped']}." if attributes.get("stopped") else "",
        f"Records: `records/{attributes['run_id']}`",
    ]
    return "\n\n".join(part for part in parts if part)
