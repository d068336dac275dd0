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

from foveate.analysis.benchmarks.data import BenchmarkResult, averages_table, gaps_table, reproduction_table, verdict
from foveate.analysis.benchmarks.paper import BENCHMARKS, BUDGETS, LABELS, METHODS, MODEL, PAPER, vtc_cls_from_20
from foveate.analysis.benchmarks.report import markdown
from foveate.analysis.records import read_records
from foveate.core.errors import DataError
from foveate.data.benchmarks import BENCHMARKS as KNOWN
from foveate.data.published import published
from foveate.methods import vtc_cls
from tests import scripts
from tests.data import tables

SOURCE = {p.source for p in published(PAPER) if "performance.png" in p.source}


def run(*options, folder):
    cache = f"import datasets; datasets.config.HF_DATASETS_CACHE = {str(folder / 'cache')!r}"
    return scripts.run("reproduce_vtc_cls", *options, folder=folder, before=cache)


def test_a_model_that_is_there_goes_through_the_whole_grid(tmp_path):
    tables.pope(tmp_path / "pope.parquet", images=8)
    tables.mmvet(tmp_path / "mmvet.parquet")
    tables.scienceqa(tmp_path / "scienceqa.parquet")
    data = ("pope:pope.parquet", "mmvet:mmvet.parquet", "scienceqa:scienceqa.parquet")
    options = ("--model", "reference", "--data", *data, "--keep", "64", "16")
    options += ("--max-new-tokens", "32")  # MM-Vet's 512 do not fit into its context
    result = run(*options, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs/reproduce_vtc_cls"
    table = pd.read_csv(folder / "table.csv")
    assert len(table) == (2 + 1 + 2) * (1 + 4 * 2)  # numbers of the benchmarks, runs of each
    assert set(table["method"]) == set(LABELS.values())
    known = table.dropna(subset="low")
    assert len(known) and (known["low"] <= known["ours"]).all() and (known["ours"] <= known["high"]).all()
    firsts = table.drop_duplicates(["benchmark", "method", "kept"])
    theirs = {(p.method, p.tokens_kept, p.benchmark): float(p.value) for p in published(PAPER) if p.source in SOURCE}
    for row in firsts.itertuples():
        name = "VTC-CLS" if row.method.startswith("VTC-CLS") else row.method
        value = theirs.get((name, {"all": "576"}.get(row.kept, row.kept), row.benchmark))
        assert row.published == pytest.approx(value) if value else np.isnan(row.published)
        if value and row.benchmark != "MM-Vet":
            assert row.verdict == ("same" if abs(row.ours - value) <= 0.3 + 1e-9 else "differs")
    assert set(table.loc[table["kept"] == "16", "verdict"]) == {"-"}
    mmvet = firsts[(firsts["benchmark"] == "MM-Vet") & (firsts["kept"] != "16")]
    assert set(mmvet["verdict"]) == {"not comparable"}
    others = table.drop(firsts.index)
    assert set(others["number"]) == {"pooled F1", "accuracy with an image"} and set(others["verdict"]) == {"-"}
    sizes = table[table["benchmark"] == "ScienceQA"].groupby("number")["n"].unique().to_dict()
    assert {name: n.tolist() for name, n in sizes.items()} == {"accuracy": [3], "accuracy with an image": [2]}
    f1 = {round(100 * _mean_f1(read_records(tmp_path / "runs", p.name)), 1) for p in _pope_runs(tmp_path)}
    assert set(firsts.loc[firsts["benchmark"] == "POPE", "ours"]) == f1
    for words in (f"Numbers of reference beside those of {PAPER}", "## Averages and share retained", "## Gaps between"):
        assert words in result.stdout and words in (folder / "table.md").read_text()
    assert len(pd.read_csv(folder / "averages.csv")) == 9
    assert len(pd.read_csv(folder / "gaps.csv")) == 4 * 2 * 3  # claims, budgets, two benchmarks and their average
    again = run(*options, folder=tmp_path)
    assert again.stdout == result.stdout


def test_with_a_limit_no_number_is_compared(tmp_path):
    tables.pope(tmp_path / "pope.parquet", images=8)
    options = ("--model", "reference", "--data", "pope:pope.parquet", "--keep", "64", "--limit", "6")
    result = run(*options, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "runs/reproduce_vtc_cls/table.csv")
    assert set(table.dropna(subset="published")["verdict"]) == {"part of the questions"}
    assert "Only a part of the questions was asked" in result.stdout


def _pope_runs(folder: Path) -> list[Path]:
    return [p for p in (folder / "runs/records").iterdir() if '"pope"' in (p / "config.json").read_text()]


def _mean_f1(records: pd.DataFrame) -> float:
    """Returns the F1 by torchmetrics; an answer with the word "no" or "not" counts as no, any other one as yes."""
    assert not records["prediction"].str.contains(".", regex=False).any()  # only the first sentence would count
    f1s = []
    for _, some in records.groupby("kind"):
        denied = some["prediction"].str.contains(r"\b(?:No|no|not)\b"), some["reference"] == "no"
        answered, true = (torch.tensor((~no).to_numpy()).int() for no in denied)
        f1s.append(float(binary_f1_score(answered, true)))
    return float(np.mean(f1s))


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
        "docs/how_to/benchmarks",
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
    ("difference", "expected"),
    [(0.0, "same"), (0.3, "same"), (-0.3, "same"), (0.4, "differs"), (-0.4, "differs"), (np.nan, "-")],
)
def test_a_number_is_the_same_within_the_tolerance(difference, expected):
    assert verdict(difference, 0.3, comparable=True, whole=True) == expected
    wide = "-" if np.isnan(difference) else "same"
    assert verdict(difference, 0.5, comparable=True, whole=True) == wide
    assert verdict(difference, 0.3, comparable=False, whole=True) in ("-", "not comparable")
    assert verdict(difference, 0.3, comparable=True, whole=False) in ("-", "part of the questions")


@pytest.mark.parametrize("tolerance", ["-1", "nan", "101"])
def test_a_tolerance_that_is_none_is_refused(tolerance, tmp_path):
    result = run("--tolerance", tolerance, folder=tmp_path)
    assert result.returncode == 2 and "expected a number of points from 0 to 100" in result.stderr


# the published ones at 64 tokens, and the uncompressed model
GQA = {"full": 62.0, "FastV": 46.0, "PruMerge+": 55.9, "VTC-CLS": 55.7, "VTC-CLS, K = 3": 56.8}
SQA = {"full": 70.2, "FastV": 68.6, "PruMerge+": 70.1, "VTC-CLS": 70.0, "VTC-CLS, K = 3": 71.5}


@pytest.fixture(scope="module")
def repeated():
    """Returns runs that equal the paper's numbers on two benchmarks, except for K = 3."""
    runs, n = [], 2000
    for seed, (data, shares) in enumerate((("gqa", GQA), ("scienceqa", SQA))):
        difficulty = np.random.default_rng(seed).permutation(n)  # the easiest questions are answered rightly
        for name, share in shares.items():
            frame = pd.DataFrame(
                {
                    "sample_id": [f"{k:05d}" for k in range(n)],
                    "image_id": [f"{k // 2:05d}" for k in range(n)],
                    "score": (difficulty < round(n * share / 100)).astype(float),
                    "has_image": np.arange(n) % 2 == 0,
                }
            )
            theirs = "VTC-CLS" if name.startswith("VTC-CLS") else name
            runs.append(BenchmarkResult(name, theirs, None if name == "full" else 64, data, frame, 0))
    return runs


def test_averages_and_per_cent_retained_are_those_of_the_published_numbers(repeated):
    table = averages_table(repeated, 0.3, True).set_index("method")
    for name in GQA:
        mean = (GQA[name] + SQA[name]) / 2
        retained = 50 * (GQA[name] / GQA["full"] + SQA[name] / SQA["full"])
        row = table.loc[name]
        assert row["ours"] == pytest.approx(mean, abs=0.051)
        assert row["retained"] == pytest.approx(retained, abs=0.051)
        assert row["low"] < row["ours"] < row["high"] and row["n"] == 4000
        if name != "VTC-CLS, K = 3":
            assert row["published"] == pytest.approx(mean, abs=0.051)
            assert row["published retained"] == pytest.approx(retained, abs=0.051)
            assert row["verdict"] == "same"
    assert table.loc["VTC-CLS, K = 3", "verdict"] == "differs"
    assert table["printed average"].to_dict() == {
        "full": 62.1, "FastV": 45.3, "PruMerge+": 56.3, "VTC-CLS": 58.4, "VTC-CLS, K = 3": 58.4
    }  # fmt: skip


def test_gaps_are_judged_by_corrected_p_against_the_published_sign(repeated):
    table = gaps_table(repeated).set_index(["method", "against", "benchmark"])
    gqa = table.loc["VTC-CLS", "FastV", "GQA"]
    assert (gqa["ours"], gqa["published"], gqa["difference"], gqa["verdict"]) == (9.7, 9.7, 0.0, "confirmed")
    assert gqa["low"] < 9.7 < gqa["high"]
    assert table.loc[("VTC-CLS", "FastV", "average"), "ours"] == pytest.approx((9.7 + 1.4) / 2, abs=0.051)
    beaten = table.loc["VTC-CLS", "PruMerge+", "GQA"]  # by 0.2 points, 4 of 2,000 questions
    assert (beaten["published"], beaten["verdict"]) == (-0.2, "not significant")
    contrary = table.loc["VTC-CLS, K = 3", "PruMerge+", "ScienceQA"]  # above, where the paper is below
    assert (contrary["published"], contrary["verdict"]) == (-0.1, "contrary")
    assert (table["p_holm"] >= table["p"]).all()


def test_a_gap_on_few_images_has_no_verdict(repeated):
    few = [run._replace(frame=run.frame.iloc[:12]) for run in repeated]
    table = gaps_table(few)
    assert set(table.loc[table["benchmark"] != "average", "verdict"]) == {"too few images"}


def test_without_a_correct_answer_of_the_full_model_no_share_is_retained(repeated):
    wrong = [run._replace(frame=run.frame.assign(score=0.0)) if run.label == "full" else run for run in repeated]
    assert averages_table(wrong, 0.3, True)["retained"].isna().all()


def test_k_3_sums_layers_20_to_22():
    assert vtc_cls_from_20(64) == vtc_cls(64, start_layer=20)


def test_the_report_shows_what_was_found(repeated):
    built = {
        "averages": averages_table(repeated, 0.3, True),
        "gaps": gaps_table(repeated),
        "table": reproduction_table(repeated, 0.3, True),
    }
    text = markdown(built, "some model", 0.3, True)
    assert "by at most 0.3 points" in text and "Numbers of some model" in text
    assert "| GQA | VTC-CLS | 64 | accuracy | 2,000 | 55.7 [" in text
    assert "| VTC-CLS - FastV | 64 | GQA | 2,000 | +9.7 [" in text
    assert "| ScienceQA | full | all | accuracy with an image | 1,000 |" in text
    verdicts = pd.concat([built["averages"], built["table"]])["verdict"]
    assert {word: text.count(f"| {word} |") for word in ("same", "differs")} == {
        word: (verdicts == word).sum() for word in ("same", "differs")
    }


def test_an_unknown_paper_is_named():
    with pytest.raises(DataError, match=r"'VTC'; known: .*VTC-CLS"):
        published("VTC")
