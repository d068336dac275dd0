"""What loggers are told, against the records that lie on disk; each logger is read back by its own package."""

import csv
import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foveate.compressors import Identity
from foveate.core.errors import FoveateError, MissingPackage
from foveate.evaluation import EvalConfig, evaluate, names
from foveate.methods import vtc_cls

MEASURED = {"accuracy", "evidence_recall", "seconds_per_question", "tokens_per_second"}


@pytest.fixture
def config(tiny, tmp_path):
    compressor = vtc_cls(36, 1)
    return EvalConfig(compressor, tiny, limit=33, max_new_tokens=2, batch_size=11, out=tmp_path, project="study")


def check(told, folder, session="part-*"):
    """What was told per name as (step, value), against the records, and against those of one session."""
    table, parts = folder.read(), list(folder.folder.glob(session))
    score = table["score"].to_numpy()
    assert set(told) == MEASURED | {"score", "n"}
    assert [value for _, value in told["n"]] == [step for step, _ in told["n"]]
    assert len(told["n"]) == len(parts)
    np.testing.assert_allclose(told["score"][-1], (len(score), score.mean()), rtol=1e-6)
    for name in MEASURED:
        assert [step for step, _ in told[name]] == [len(score)]
    np.testing.assert_allclose(told["accuracy"][0][1], score.mean(), rtol=1e-6)
    np.testing.assert_allclose(told["evidence_recall"][0][1], np.nanmean(table["evidence_recall"]), rtol=1e-6)
    answered = pa.concat_tables(pq.read_table(part) for part in parts)
    tokens = np.mean(answered["tokens"].to_numpy() + answered["text_tokens"].to_numpy())
    per_question = told["seconds_per_question"][0][1]
    assert 0 < per_question < 60
    np.testing.assert_allclose(told["tokens_per_second"][0][1] * per_question, tokens, rtol=1e-5)


def told_csv(path: Path):
    rows = list(csv.DictReader(path.open()))
    names = set(rows[0]) - {"step"}
    return {n: [(int(float(row["step"])), float(row[n])) for row in rows if row[n]] for n in names}


def test_csv_is_told_the_means_of_the_records_and_what_was_evaluated(config):
    folder = evaluate(replace(config, loggers=("csv",)))
    (place,) = (config.out / "logs" / "csv" / folder.folder.name).iterdir()
    check(told_csv(place / "metrics.csv"), folder)
    settings = (place / "hparams.yaml").read_text()
    assert f"compressor: {config.compressor!r}"[:40] in settings
    assert f"checkpoint: {json.loads((folder.folder / 'config.json').read_text())['checkpoint']}" in settings


def test_loggers_change_neither_a_run_nor_its_records(config):
    silent = evaluate(config)
    told = evaluate(replace(config, loggers=("csv",), project="other", out=config.out / "told"))
    assert told.folder.name == silent.folder.name
    assert told.read().equals(silent.read())
    assert not (config.out / "logs").exists()
    assert {path.name for path in told.folder.iterdir()} == {path.name for path in silent.folder.iterdir()}


def test_a_run_that_goes_on_tells_of_all_records_and_the_time_of_this_session(config):
    config = replace(config, loggers=("csv",))
    folder = evaluate(config)
    (folder.folder / "DONE").unlink()
    gone = min(folder.folder.glob("part-*"))
    gone.unlink()
    evaluate(config)
    places = sorted((config.out / "logs" / "csv" / folder.folder.name).iterdir())
    assert [place.name for place in places] == ["version_0", "version_1"]
    check(told_csv(places[1] / "metrics.csv"), folder, session=gone.name)
    evaluate(config)  # is complete, so there is nothing to tell
    assert sorted((config.out / "logs" / "csv" / folder.folder.name).iterdir()) == places


def test_tensorboard_is_told_the_same(config):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = evaluate(replace(config, loggers=("tensorboard",)))
    (place,) = (config.out / "logs" / "tensorboard" / folder.folder.name).iterdir()
    events = EventAccumulator(str(place)).Reload()
    check({name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}, folder)


def test_mlflow_is_told_the_same(config, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = evaluate(replace(config, loggers=("mlflow",)))
    client = mlflow.MlflowClient(f"sqlite:///{config.out / 'logs' / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    assert (run.info.run_name, run.info.status) == (folder.folder.name, "FINISHED")
    assert run.data.params["compressor"] == repr(config.compressor)[:250]
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    check({name: [(m.step, m.value) for m in history] for name, history in histories.items()}, folder)


def test_wandb_is_told_of_two_evaluations_as_two_runs(config, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    first = evaluate(replace(config, loggers=("wandb", "csv")))
    assert wandb.run is None
    second = evaluate(replace(config, loggers=("wandb",), compressor=Identity()))
    files = [path.name for path in (config.out / "logs" / "wandb").rglob("run-*.wandb")]
    assert sorted(files) == sorted(f"run-{folder.folder.name}.wandb" for folder in (first, second))


def test_a_missing_package_is_one_clear_error_before_anything_runs(config, monkeypatch):
    monkeypatch.setattr(names, "find_spec", lambda name: importlib.util.find_spec("no_such_package"))
    with pytest.raises(MissingPackage, match=r"logger 'wandb' needs .*pip install 'foveate\[loggers\]'"):
        evaluate(replace(config, loggers=("wandb",), model="is not even looked for"))
    with pytest.raises(FoveateError, match="logger 'paper' is unknown; known: csv, tensorboard, wandb, mlflow"):
        names.check_loggers(["paper"])
