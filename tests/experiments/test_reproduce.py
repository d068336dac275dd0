"""The paper's grid as a user runs it: on the shipped model with a few questions, and without weights."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional.classification import binary_f1_score

from analysis.paper import BENCHMARKS, BUDGETS, METHODS, MODEL, PAPER
from analysis.records import read_records
from analysis.reproduction import _verdict
from foveate.core.errors import DataError
from foveate.data.benchmarks import BENCHMARKS as KNOWN
from foveate.data.published import published
from tests import scripts
from tests.data import tables


def run(*options, folder):
    cache = f"import datasets; datasets.config.HF_DATASETS_CACHE = {str(folder / 'cache')!r}"
    return scripts.run("reproduce_vtc_cls", *options, folder=folder, before=cache)


def test_a_model_that_is_there_goes_through_the_whole_grid(tmp_path):
    tables.pope(tmp_path / "pope.parquet", images=8)
    tables.mmvet(tmp_path / "mmvet.parquet")
    options = ("--model", "reference", "--data", "pope:pope.parquet", "mmvet:mmvet.parquet", "--keep", "64", "16")
    options += ("--max-new-tokens", "32")  # MM-Vet's 512 do not fit into its context
    result = run(*options, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "runs/reproduce_vtc_cls/table.csv")
    assert len(table) == 2 * (1 + 3 * 2)
    assert set(table["method"]) == set(METHODS.values()) and set(table["benchmark"]) == {"POPE", "MM-Vet"}
    known = table.dropna(subset="low")
    assert len(known) and (known["low"] <= known["ours"]).all() and (known["ours"] <= known["high"]).all()
    theirs = {
        (p.method, p.tokens_kept, p.benchmark): float(p.value)
        for p in published(PAPER)
        if "performance.png" in p.source
    }
    for row in table.itertuples():
        value = theirs.get((row.method, {"all": "576"}.get(row.kept, row.kept), row.benchmark))
        assert row.published == pytest.approx(value) if value else np.isnan(row.published)
        if value and row.benchmark == "POPE":
            inside = "inside" if row.low <= value <= row.high else "outside"
            assert row.verdict == ("no interval" if np.isnan(row.low) else inside)
    assert set(table.loc[table["kept"] == "16", "verdict"]) == {"-"}
    assert set(table.loc[(table["benchmark"] == "MM-Vet") & (table["kept"] != "16"), "verdict"]) == {"not comparable"}
    assert f"Run on reference, beside the numbers of {PAPER}" in result.stdout
    f1 = {round(100 * _f1(read_records(tmp_path / "runs", p.name)), 1) for p in _pope_runs(tmp_path)}
    assert set(table.loc[table["benchmark"] == "POPE", "ours"]) == f1
    again = run(*options, folder=tmp_path)
    assert again.stdout == result.stdout


def _pope_runs(folder: Path) -> list[Path]:
    return [p for p in (folder / "runs/records").iterdir() if '"pope"' in (p / "config.json").read_text()]


def _f1(records: pd.DataFrame) -> float:
    said = ~records["prediction"].str.lower().str.split().map(lambda words: bool({"no", "not"} & set(words)))
    true = records["reference"] == "yes"
    return float(binary_f1_score(*(torch.tensor(side.to_numpy()).int() for side in (said, true))))


def test_without_weights_it_says_what_it_would_need(tmp_path):
    nowhere = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}  # read when libraries are imported
    script = str(scripts.EXPERIMENTS / "reproduce_vtc_cls.py")
    result = subprocess.run([sys.executable, script], cwd=tmp_path, env=nowhere, capture_output=True, text=True)
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: model 'llava-hf/llava-1.5-7b-hf': ")
    for words in (
        "weights of llava-hf/llava-1.5-7b-hf",
        "hf download",
        "scienceqa, gqa, textvqa_ocr",
        "docs/benchmarks",
    ):
        assert words in last
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_data_that_the_paper_does_not_have_are_refused(tmp_path):
    result = run("--data", "vqav2", folder=tmp_path)
    assert result.returncode == 2
    assert "data 'vqav2' is not in the paper; its benchmarks: scienceqa, gqa" in result.stderr


def test_every_number_of_the_papers_table_has_a_place_in_the_grid():
    assert set(BENCHMARKS) <= set(KNOWN)
    cells = {(p.method, p.tokens_kept, p.benchmark) for p in published(PAPER) if p.model == MODEL}
    kept = {*map(str, BUDGETS), "576"}
    grid = product(METHODS.values(), kept, BENCHMARKS.values())
    assert {(m, k, b) for m, k, b in grid if (m == "full") == (k == "576")} <= cells


@pytest.mark.parametrize(
    ("data", "value", "expected"),
    [("gqa", 60.3, "inside"), ("gqa", 58.9, "outside"), ("gqa", 61.1, "outside"), ("mmvet", 60.0, "not comparable")],
)
def test_a_number_is_inside_where_the_interval_holds_it(data, value, expected):
    assert _verdict(data, value, 59.0, 61.0) == expected
    assert _verdict(data, np.nan, 59.0, 61.0) == "-"
    assert _verdict("gqa", value, np.nan, np.nan) == "no interval"


def test_an_unknown_paper_is_named():
    with pytest.raises(DataError, match=r"'VTC'; known: .*VTC-CLS"):
        published("VTC")
