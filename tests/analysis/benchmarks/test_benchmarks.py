import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import bootstrap
from torchmetrics.functional.classification import binary_f1_score

from foveate.analysis.benchmark_numbers import benchmark_table, number_of, overview, write_numbers
from foveate.analysis.benchmarks.answers import write_submission
from foveate.analysis.cells import Cell, failures
from foveate.analysis.statistics import mean_interval, summed_interval
from foveate.core.errors import DataError
from foveate.metrics.benchmarks import ACCURACY, measures_of
from tests.analysis.conftest import write_records


def records(seed: int, images: int = 60, skill: float = 0.7) -> pd.DataFrame:
    """Answers to six questions about each image, of which some are easier than others."""
    rng = np.random.default_rng(seed)
    n = 6 * images
    true = rng.random(n) < 0.5
    easy = np.repeat(rng.normal(0, 0.2, images), 6)
    right = rng.random(n) < skill + easy
    predicted = np.where(right, true, ~true)
    return pd.DataFrame(
        {
            "sample_id": [f"{k:04d}" for k in range(n)],
            "image_id": [f"i{k // 6}" for k in range(n)],
            "kind": "random",
            "question": "Is there a star?",
            "reference": np.where(true, "yes", "no"),
            "prediction": np.where(predicted, "Yes", "No."),
            "score": right.astype(float),
            "kept": [[0]] * n,
            "tokens": 1,
            "tokens_per_block": [[1]] * n,
            "text_tokens": 5,
            "evidence_recall": np.nan,
            "things_kept": np.nan,
            "log_probability": -1.0,
            "error": "",
            "has_image": True,
        }
    )


def f1(frame: pd.DataFrame) -> float:
    predicted, true = (
        torch.tensor((frame[c] == yes).to_numpy()).int() for c, yes in (("prediction", "Yes"), ("reference", "yes"))
    )
    return binary_f1_score(predicted, true).item()


def test_f1_and_its_interval_equal_scipys_bootstrap_over_images():
    frame = records(0)
    found = number_of(measures_of("pope")[0], [frame])
    assert found.mean == pytest.approx(f1(frame))
    groups = [group for _, group in frame.groupby("image_id")]
    counts = np.array(
        [
            [
                ((g["prediction"] == "Yes") & (g["reference"] == "yes")).sum(),
                ((g["prediction"] == "Yes") != (g["reference"] == "yes")).sum(),
            ]
            for g in groups
        ]
    )
    drawn = bootstrap(
        (counts[:, 0], counts[:, 1]),
        lambda tp, wrong, axis: 2 * tp.sum(axis) / (2 * tp.sum(axis) + wrong.sum(axis)),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.006)
    assert found.n == 360


def test_a_mean_has_the_interval_of_the_other_tables():
    frame = records(1)
    expected = mean_interval(frame["score"], frame["image_id"])
    assert number_of(ACCURACY, [frame]) == expected
    general = summed_interval(
        [ACCURACY.parts({"score": frame["score"].to_numpy()})], frame["image_id"], ACCURACY.from_sums
    )
    assert general.mean == expected.mean
    assert general[1:3] == pytest.approx(expected[1:3], abs=0.01)  # the bootstrap, at 60 images


@pytest.mark.parametrize("data", ["mmbench", "refcoco"])
def test_other_means_have_wilsons_interval_too(data):
    """The unit of circular accuracy is the question, whose rotations share one image."""
    frame = records(5).assign(prediction="[0, 0, 1, 1]", reference="[0.0, 0.0, 0.5, 1.0]")
    found = [number_of(measure, [frame]) for measure in measures_of(data)]
    if data == "mmbench":
        groups = frame.groupby("image_id", sort=False)["score"].min()
        assert found[0] == mean_interval(groups, groups.index) and found[0].n == 60
        assert found[1] == mean_interval(frame["score"], frame["image_id"])
    else:
        assert found[1] == mean_interval(np.full(360, 0.5), frame["image_id"])


def test_a_number_of_some_questions_has_their_number_and_that_of_their_images(tmp_path):
    frame = records(6).assign(has_image=lambda f: f.index % 2 == 0)
    write_records(tmp_path, "run", frame)
    table = benchmark_table("scienceqa", [Cell("full", "full", "", 144, "run")], tmp_path).set_index("number")
    shown = frame[frame["has_image"]]
    assert table.loc["accuracy", ["n", "images"]].tolist() == [360, 60]
    assert table.loc["accuracy with an image", ["n", "images"]].tolist() == [180, 60]
    expected = mean_interval(shown["score"], shown["image_id"])
    values = table.loc["accuracy with an image", ["value", "low", "high"]].tolist()
    assert values == pytest.approx(expected[:3])
    none = frame.assign(has_image=False)
    assert np.isnan(number_of(measures_of("scienceqa")[1], [none])[:3]).all()


def test_seeds_are_resampled_together():
    one, other = records(2), records(3)
    other[["reference", "image_id"]] = one[["reference", "image_id"]]
    together = number_of(measures_of("pope")[0], [one, other])
    assert together.mean == pytest.approx((f1(one) + f1(other)) / 2)
    twice = number_of(measures_of("pope")[0], [one, one])
    assert twice == number_of(measures_of("pope")[0], [one])


def test_images_are_drawn_within_their_subtask():
    """With one image per subtask nothing varies; images drawn from all subtasks would vary."""
    frame = records(4, images=2).assign(kind=["count"] * 6 + ["scene"] * 6)
    perception = measures_of("mme")[0]
    assert perception.stratum == "kind"
    found = number_of(perception, [frame])
    assert np.isnan([found.low, found.high]).all()
    apart = summed_interval(
        [perception.parts({n: c.to_numpy() for n, c in frame.items()})], frame["image_id"], perception.from_sums
    )
    assert apart.high > apart.low


@pytest.fixture
def study(tmp_path):
    cells = []
    for number, (label, family, keep) in enumerate(
        [("full", "full", 144), ("good", "good", 16), ("random[0]", "random", 16), ("random[1]", "random", 16)]
    ):
        cells.append(Cell(label, family, "", keep, f"run{number}"))
        frame = records(0, skill=0.9 - 0.1 * number)
        failed = frame.iloc[:1].assign(sample_id="zz", error="image 'x' cannot be decoded", score=np.nan)
        write_records(tmp_path, f"run{number}", pd.concat([frame, failed]))
    return cells, tmp_path


def test_the_table_has_every_number_of_every_method_and_the_failed_questions(study):
    cells, out = study
    table = benchmark_table("pope", cells, out)
    names = ["mean F1 of the sets", "pooled F1", "accuracy", "precision", "recall", "yes ratio"]
    assert table["number"].tolist() == names * 3
    assert table["method"].unique().tolist() == ["full", "good", "random"]
    assert (table["failed"] == 1).all() and (table["n"] == 360).all() and (table["images"] == 60).all()
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    assert (
        table.loc[table["method"] == "full", "value"].iloc[0] > table.loc[table["method"] == "random", "value"].iloc[0]
    )
    assert failures(cells, out) == (
        "1 questions failed and are in no number. The first, 'zz': image 'x' cannot be decoded"
    )


def test_files_and_overview_hold_the_same_numbers(study, tmp_path):
    cells, out = study
    printed = write_numbers("pope", cells, out, tmp_path / "pope")
    assert "mean F1 of the sets of pope" in printed and write_numbers("gqa", cells, out, tmp_path / "gqa") == ""
    assert write_numbers("scenes", cells, out, tmp_path / "scenes") == "" and not (tmp_path / "scenes").exists()
    table = pd.read_csv(tmp_path / "pope/benchmark.csv")
    assert "## yes ratio" in (tmp_path / "pope/benchmark.md").read_text()
    assert overview({"pope": tmp_path / "pope"}, tmp_path / "one") == ""
    text = overview({"pope": tmp_path / "pope", "gqa": tmp_path / "gqa"}, tmp_path / "all")
    assert "pope mean F1 of the sets" in text and "gqa accuracy" in text
    both = pd.read_csv(tmp_path / "all/benchmarks.csv")
    assert len(both) == 6
    f1s = table[table["number"] == "mean F1 of the sets"]["value"]
    np.testing.assert_allclose(both[both["data"] == "pope"]["value"], f1s)
    shown = f"{100 * f1s.iloc[0]:.1f} ["
    assert shown in (tmp_path / "all/benchmarks.md").read_text()


def written_numbers(folder, data, numbers):
    """Writes the `benchmark.csv` of a data set with these values, each with an interval of two points around it."""
    rows = [(data, m, b, measures_of(data)[0].name, 1.0, 9, 9, 0, v, v - 0.01, v + 0.01) for m, b, v in numbers]
    names = ["data", "method", "budget", "number", "largest", "n", "images", "failed", "value", "low", "high"]
    (folder / data).mkdir(parents=True)
    pd.DataFrame(rows, columns=names).to_csv(folder / data / "benchmark.csv", index=False)
    return folder / data


def test_the_overview_names_the_task_that_retains_least(tmp_path):
    """OCRBench falls from 85 to 23 points, which a mean of retained shares would hide; of CHAIR less is better."""
    values = {
        "ocrbench": [("full", 144, 0.85), ("fast", 16, 0.23), ("slow", 16, 0.8)],
        "gqa": [("full", 144, 0.6), ("fast", 16, 0.57), ("slow", 16, 0.6)],
        "chair": [("full", 144, 0.5), ("fast", 16, 0.6), ("slow", 16, 0.4)],
    }
    folders = {data: written_numbers(tmp_path, data, numbers) for data, numbers in values.items()}
    printed = overview(folders, tmp_path / "all")
    table = pd.read_csv(tmp_path / "all/benchmarks.csv").set_index(["data", "method"])
    assert table.loc[("chair", "fast"), "retained"] == pytest.approx(0.8)
    assert table.loc[("chair", "fast"), ["retained_low", "retained_high"]].tolist() == pytest.approx([0.78, 0.82])
    text = (tmp_path / "all/benchmarks.md").read_text()
    assert "ocrbench 27.1 [25.9, 28.2] % of full" in text  # 23 / 85
    assert "ocrbench 94.1 [92.9, 95.3] % of full" in text
    assert "gqa 60.0 [59.0, 61.0] % of the largest" not in text  # full retains less of CHAIR
    assert "chair 50.0 [49.0, 51.0] % of the largest" in text and "taken as exact" in text
    assert "23.0 [22.0, 24.0]" in printed and "of full" not in printed  # the summary of a comparison prints another one
    assert table.loc[("chair", "slow"), "retained"] == pytest.approx(1.2)


def test_without_full_the_worst_task_is_that_with_the_smallest_share_of_the_largest_number(tmp_path):
    values = {"ocrbench": [("fast", 16, 0.8)], "gqa": [("fast", 17, 0.6)]}
    folders = {data: written_numbers(tmp_path, data, numbers) for data, numbers in values.items()}
    printed = overview(folders, tmp_path / "all", one_method=True)
    assert printed.count("fast") == 1 and "gqa 60.0 [59.0, 61.0] % of the largest" in printed


def test_clusters_of_a_measure_are_its_independent_units():
    """Four figures of two sets: the interval of two units is wider than that of four."""
    names = [f"VD_map_{s}_{f}_{q}" for s in range(20) for f in range(2) for q in range(3)]
    frame = records(7, images=20).assign(sample_id=names, image_id=[name[:-2] for name in names])
    frame["score"] = [float(int(name.split("_")[2]) % 2) for name in names]  # a set is right or wrong as a whole
    found = number_of(measures_of("hallusionbench")[0], [frame])
    assert found == mean_interval(frame["score"], [name.split("_")[2] for name in names])
    alone = mean_interval(frame["score"], frame["image_id"])
    assert found.high - found.low > alone.high - alone.low and found.n == 120


def test_submissions_are_what_the_servers_read(tmp_path):
    frame = pd.DataFrame({"sample_id": ["12", "13"], "prediction": ["The Two dogs.", "Café"]})
    write_submission("vqav2", frame, tmp_path / "vqav2.json")
    assert json.loads((tmp_path / "vqav2.json").read_text()) == [
        {"question_id": 12, "answer": "2 dogs"},
        {"question_id": 13, "answer": "café"},
    ]
    frame["sample_id"] = ["VizWiz_test_00000000", "VizWiz_test_00000001"]
    write_submission("vizwiz", frame, tmp_path / "vizwiz.json")
    assert json.loads((tmp_path / "vizwiz.json").read_text())[1] == {
        "image": "VizWiz_test_00000001.jpg",
        "answer": "café",
    }
    frame["sample_id"] = ["v1_0", "v1_1"]
    write_submission("mmvet", frame, tmp_path / "mmvet.json")
    assert json.loads((tmp_path / "mmvet.json").read_text()) == {"v1_0": "The Two dogs.", "v1_1": "Café"}
    for data in ("docvqa", "infographicvqa"):
        write_submission(data, frame.assign(sample_id=["12", "13"]), tmp_path / "document.json")
        assert json.loads((tmp_path / "document.json").read_text()) == [
            {"questionId": 12, "answer": "The Two dogs."},
            {"questionId": 13, "answer": "Café"},
        ]
    captions = frame.assign(sample_id=["COCO_val2014_000000000139", "000000000285"])
    write_submission("chair", captions, tmp_path / "chair.json")
    assert json.loads((tmp_path / "chair.json").read_text()) == [
        {"image_id": 139, "caption": "The Two dogs."},
        {"image_id": 285, "caption": "Café"},
    ]
    with pytest.raises(DataError, match="'pope' has no format"):
        write_submission("pope", frame, tmp_path / "pope.json")
