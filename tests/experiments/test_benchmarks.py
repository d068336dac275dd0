"""Benchmarks as a user runs them, on the shipped model and a few questions of the hub's columns."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests import scripts
from tests.data import detail_tables, tables
from tests.tiers import parametrize

TYPES = tables.POPE | {"image": {"bytes": tables.Value("binary"), "path": tables.TEXT}}


def run(script, *options, folder):
    cache = f"import datasets; datasets.config.HF_DATASETS_CACHE = {str(folder / 'cache')!r}"
    return scripts.run(script, *options, folder=folder, before=cache)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    rows = tables.pope_rows()
    rows[0] |= {"image": {"bytes": b"noise", "path": None}, "image_source": "lone"}
    tables.write(folder / "pope.parquet", rows, TYPES)
    tables.mme(folder / "mme.parquet")
    tables.mmvet(folder / "mmvet.parquet")
    tables.vqav2(folder / "vqav2.parquet", answered=False)
    return folder


def test_several_benchmarks_are_compared_and_failures_are_reported(hub):
    options = ("--data", "pope:pope.parquet", "mme:mme.parquet", "--methods", "vtc_cls", "evidence", "--keep", "16")
    result = run("compare_methods", *options, "--on-error", "skip", folder=hub)
    assert result.returncode == 0, result.stderr
    pope = pd.read_csv(hub / "runs/compare_methods_pope/benchmark.csv")
    assert set(pope["method"]) >= {"full", "vtc_cls", "random", "uniform", "blind"}
    assert (pope["n"] == 17).all() and (pope["failed"] == 1).all()
    assert "evidence" not in set(pope["method"])
    unable = "- evidence: the data does not say where in the images the answers are"
    assert unable in (hub / "runs/compare_methods_pope/table.md").read_text()
    mme = pd.read_csv(hub / "runs/compare_methods_mme/benchmark.csv")
    assert (mme["n"] == 8).all() and {"perception", "existence"} <= set(mme["number"])
    both = pd.read_csv(hub / "runs/compare_methods/benchmarks.csv")
    assert set(both["data"]) == {"pope", "mme"}
    assert "F1 of the sets of pope" in result.stdout and "pope mean F1 of the sets" in result.stdout
    assert "Worst kind of questions: its difference from full" in result.stdout and "*Worst task*: " in result.stdout
    assert "Worst task: the benchmark" not in result.stdout
    kinds = pd.read_csv(hub / "runs/compare_methods_pope/worst_kinds.csv")
    assert set(kinds["row"]) == set(pope["method"]) and set(kinds["kind"]) <= set(tables.POPE_KINDS)
    failed = "1 questions failed and are in no number. The first, 'random-1': image 'lone' (5 bytes) cannot be decoded"
    assert failed in result.stdout
    assert failed in (hub / "runs/compare_methods_pope/table.md").read_text()
    table = pd.read_csv(hub / "runs/compare_methods_pope/table.csv")
    accuracy = pope[pope["number"] == "accuracy"].set_index("method")["value"]
    for _, row in table.iterrows():
        assert row["accuracy"] == pytest.approx(accuracy[row["method"]])


def test_an_ablation_of_unannotated_data_has_no_oracle(hub):
    options = ("--data", "mme:mme.parquet", "--layers", "1", "--keep", "16", "--study", "layers")
    result = run("ablate_layers", *options, folder=hub)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(hub / "runs/layers_mme/table.csv")
    assert {"cls[1]", "saturation", "full"} <= set(table["family"]) | set(table["scorer"])
    assert "evidence" not in set(table["family"]) and table["evidence_recall"].isna().all()


BAD = {
    "stop": (("--data", "pope:pope.parquet"), "question 'random-1': image 'lone' (5 bytes) cannot be decoded"),
    "unknown": (("--data", "pop"), "data 'pop' is unknown; known: scenes, clips, ai2d"),
    "split": (("--data", "pope:pope.parquet", "--split", "hard"), "known: test, random, popular, adversarial"),
    "twice": (("--data", "pope:pope.parquet", "pope:other.parquet"), "the same data set twice"),
    "one name": (("--data", "mme.parquet", "./mme.parquet"), "two tables of one name, would be one study"),
    "answers": (("--data", "vqav2:vqav2.parquet", "--split", "test"), "has no answers"),
    "columns": (("--data", "gqa:pope.parquet"), "data 'gqa' lacks the columns imageId"),
}


@parametrize("kind", BAD)
def test_bad_data_gets_one_clear_line(kind, hub):
    options, message = BAD[kind]
    result = run("compare_methods", *options, "--study", "bad", "--methods", "vtc_cls", folder=hub)
    assert result.returncode == 2, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in result.stderr


def test_other_experiments_take_one_data_set(hub):
    result = run("search_weights", "--data", "scenes", "pope", folder=hub)
    assert result.returncode == 2
    assert "data scenes pope: this experiment takes one data set" in result.stderr


def test_answers_are_written_for_the_graders(hub):
    options = ("--data", "mmvet:mmvet.parquet", "vqav2:vqav2.parquet", "--max-new-tokens", "4", "--keep", "16")
    result = run("answer_benchmark", *options, "--method", "vtc_cls", "--split", "test", folder=hub)
    assert result.returncode == 0, result.stderr
    assert json.loads((hub / "runs/answers_mmvet/submission.json").read_text()).keys() == {"v1_0", "v1_1"}
    entries = json.loads((hub / "runs/answers_vqav2_test/submission.json").read_text())
    assert [entry["question_id"] for entry in entries] == [9000000, 9000001]
    assert "not the GPT-4 grade" in result.stdout


def test_answers_name_the_worst_kind_and_the_worst_benchmark(hub):
    detail_tables.ocrbench(hub / "ocrbench.parquet")
    options = ("--data", "mme:mme.parquet", "ocrbench:ocrbench.parquet", "--max-new-tokens", "4", "--method", "full")
    result = run("answer_benchmark", *options, "--study", "worst", folder=hub)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Mean score ") == result.stdout.count("Worst kind of questions: ") == 2
    assert "% of the largest" in result.stdout and "worst task" in (hub / "runs/worst/benchmarks.md").read_text()
