import numpy as np
import pandas as pd
import pytest

from foveate.analysis.cells import Cell
from foveate.analysis.statistics import difference_interval, mean_interval
from foveate.analysis.worst_kinds import kinds_of, worst_kind, worst_kinds_table, write_worst_kinds

KINDS = {"thing": (0.95, 0.9), "reading": (0.85, 0.23), "count": (0.4, 0.4)}  # accuracy of full, and compressed


def run(place, images=100):
    """Returns records with the accuracies of `KINDS`, exactly: one question of each kind about every image."""
    rows = [
        (f"i{n:03d}", kind, float(n < shares[place] * images)) for kind, shares in KINDS.items() for n in range(images)
    ]
    frame = pd.DataFrame(rows, columns=["image_id", "kind", "score"])
    return frame.assign(sample_id=[f"{n:04d}" for n in range(len(frame))], evidence_recall=np.nan, things_kept=np.nan)


def test_the_worst_kind_loses_most_although_another_one_is_lower():
    full, frame = run(0), run(1)
    found = worst_kind(frame, full)
    assert (found.kind, found.kinds, found.images, found.mean.n) == ("reading", 3, 100, 100)
    assert (found.mean.mean, found.loss.mean) == (pytest.approx(0.23), pytest.approx(-0.62))
    rows = frame["kind"] == "reading"
    expected = difference_interval(frame["score"][rows], full["score"][rows], frame["image_id"][rows], together=3)
    assert found.loss == expected
    alone = difference_interval(frame["score"][rows], full["score"][rows], frame["image_id"][rows])
    assert expected.low < alone.low < alone.high < expected.high  # it holds for all three kinds at once


def test_without_full_the_worst_kind_has_the_lowest_accuracy():
    found = worst_kind(run(0))
    assert found.kind == "count" and np.isnan(found.loss.mean)
    assert found.mean == mean_interval(np.arange(100) < 40, np.arange(100), together=3)
    assert str(found).startswith("Worst kind of questions: count 40.0 % [")
    assert "n = 100 questions about 100 images (the lowest of 3 kinds; the interval holds for all of them" in str(found)


@pytest.mark.parametrize(
    ("kind", "several"),
    [("ocr,math", ["ocr", "math"]), ("red, blue", ["red, blue"]), ("", []), ("table/list", ["table/list"])],
)
def test_a_question_may_have_several_kinds(kind, several):
    assert kinds_of(kind) == several


def test_a_question_of_several_kinds_counts_for_each():
    frame = pd.DataFrame({"kind": ["a,b", "b", "a", "c"], "score": [0.0, 0.0, 1.0, 1.0], "image_id": list("wxyz")})
    found = worst_kind(frame)
    assert (found.kind, found.kinds, found.mean.mean, found.mean.n) == ("b", 3, 0.0, 2)
    assert worst_kind(frame.assign(kind="a")) is worst_kind(frame.assign(kind="")) is None


def test_a_report_has_the_worst_kind_of_every_row(tmp_path):
    cells = [Cell("full", "full", "", 144, "full"), Cell("fast", "fast", "", 16, "fast")]
    frames = {cell: run(place) for place, cell in enumerate(cells)}
    worst = write_worst_kinds(frames, tmp_path / "report", "family")
    table = pd.read_csv(tmp_path / "report/worst_kinds.csv")
    assert table[["row", "budget", "kind"]].values.tolist() == [["full", 144, "count"], ["fast", 16, "reading"]]
    assert table["delta_vs_full"].tolist() == [pytest.approx(np.nan, nan_ok=True), pytest.approx(-0.62)]
    assert worst.cells("fast", 16)["worst kind"].startswith("reading 23.0 [")
    assert ", -62.0 [" in worst.cells("fast", 16)["worst kind"]
    assert worst.cells("full", 144)["worst kind"].startswith("count 40.0 [") and "of 3 kinds" in worst.legend
    assert worst.cells("other", 16) == {"worst kind": "-"}
    assert "reading -62.0 [" in worst.text and "count 40.0 [" in worst.text


def test_questions_of_one_kind_have_no_worst_kind(tmp_path):
    frames = {Cell("full", "full", "", 144, "full"): run(0).assign(kind="one")}
    worst = write_worst_kinds(frames, tmp_path, "scorer")
    assert worst_kinds_table(frames, "scorer").empty and not list(tmp_path.iterdir())
    assert (worst.cells("full", 144), worst.legend, worst.text) == ({}, "", "")


def test_intervals_that_hold_together_have_the_level_of_bonferroni():
    """With many questions the interval of four is Wilson's at 98.75 %, and that of one at 95 %."""
    n, share, z = 40_000, 0.3, {1: 1.959964, 4: 2.497705}
    scores = np.arange(n) < share * n
    for together, quantile in z.items():
        found = mean_interval(scores, np.arange(n), together)
        half = quantile * np.sqrt(share * (1 - share) / n)
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-3)
