import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import loops, results
from benchmarks.results import BEGIN, END, Result, note, read, render, rendered, summary
from foveate.analysis.rounds import Estimate
from foveate.functional.diversity import coverage, determinantal, max_min
from foveate.functional.matching import cosine


def result(value: float, low: float, high: float, name: str = "tap", **limits: float) -> Result:
    return Result(name, Estimate(value, low, high, 0.01, 4), "%", **limits)


@pytest.mark.parametrize(
    ("low", "high", "limits", "verdict"),
    [
        (1, 2, {"at_most": 3}, "holds"),
        (2, 4, {"at_most": 3}, "open"),
        (4, 5, {"at_most": 3}, "missed"),
        (6, 9, {"at_least": 5}, "holds"),
        (4, 9, {"at_least": 5}, "open"),
        (1, 4, {"at_least": 5}, "missed"),
        (1, 4, {}, ""),
        (math.nan, math.nan, {"at_most": 9}, "open"),
    ],
)
def test_a_promise_holds_or_is_missed_only_if_the_whole_interval_agrees(low, high, limits, verdict):
    assert result(3.0, low, high, **limits).verdict == verdict


def test_a_row_of_this_machine_is_replaced_and_those_of_others_stay(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    elsewhere = {**results.conditions(), "cpu": "Another", "torch": "2.10", "date": "2026-01-02"}
    with monkeypatch.context() as patch:
        patch.setattr(results, "conditions", lambda: elsewhere)
        note(result(9.0, 8.0, 10.0), path)
    note(result(1.0, 0.9, 1.1, at_most=3), path)
    note(result(2.0, 1.9, 2.1, at_most=3), path)
    note(result(5.0, 4.0, 6.0, name="prefill"), path)
    table = read(path)
    assert len(table) == 3
    found = dict(zip(zip(table["cpu"], table["name"], strict=True), table["value"], strict=True))
    here = results.conditions()["cpu"]
    assert found == {("Another", "tap"): 9.0, (here, "tap"): 2.0, (here, "prefill"): 5.0}
    assert set(table.loc[table["cpu"] == "Another", "torch"]) == {"2.10"}
    assert set(table.loc[table["cpu"] == here, "torch"]) == {torch.__version__}


def test_the_page_shows_number_interval_rounds_promise_and_verdict_and_keeps_its_text(tmp_path):
    path, page = tmp_path / "results.csv", tmp_path / "README.md"
    note(result(1.234, 1.1, 1.3, at_most=3), path)
    page.write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        render(page, path)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale" not in text
    assert "| tap | 1.23 [1.1, 1.3] % | 4 | at most 3 | holds |" in text
    assert results.conditions()["date"] in text
    assert "1.23 [1.1, 1.3] %" in summary(["tap"], path)


def test_the_page_in_the_repository_is_made_of_its_table():
    page = Path(results.README).read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == rendered(read()).strip()


def test_the_loops_choose_what_the_library_chooses():
    features = torch.randn(2, 300, 16, generator=torch.Generator().manual_seed(0)).double()
    quality = torch.rand(2, 300, generator=torch.Generator().manual_seed(1)).double()
    similarity, everybody = cosine(features, features), torch.ones(2, 300, dtype=torch.bool)
    kernel = quality[:, :, None] * (similarity + 0.1 * torch.eye(300)) * quality[:, None]
    for loop in (loops.max_min, loops.max_min_running):
        assert [loop(table, 60) for table in similarity] == max_min(similarity, everybody, 60).tolist()
    for loop in (loops.determinantal, loops.determinantal_in_place):
        assert [loop(table, 200) for table in kernel] == determinantal(kernel, everybody, 200).tolist()
    expected = [loops.coverage(*images, 60) for images in zip(similarity, quality, strict=True)]
    assert coverage(similarity.mT, quality, 0 * quality, everybody, 60).tolist() == expected


def test_estimates_are_written_with_enough_digits(tmp_path):
    path = tmp_path / "results.csv"
    note(result(1 / 3, 0.3, 0.4), path)
    assert pd.read_csv(path)["value"][0] == pytest.approx(1 / 3, rel=1e-5)
    assert np.isnan(pd.read_csv(path)["at_most"][0])
