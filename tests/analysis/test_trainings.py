from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from scipy.stats import t

from foveate.analysis.cells import Cell
from foveate.analysis.trainings import agreement_of_order, crossed, markdown, trainings_table, write_trainings
from foveate.core.errors import DataError, UnsupportedModel
from foveate.options import Options
from tests.tiers import extended


def test_crossed_is_the_analysis_of_variance_of_a_balanced_table():
    """The random-effects two-way table has Var = (MS_T + MS_I - MS_TI) / (T m)."""
    rng = np.random.default_rng(0)
    trainings, images = 4, 30
    values = rng.normal(0, 0.3, (trainings, 1)) + rng.normal(0, 0.5, images) + rng.normal(0.2, 0.2, (trainings, images))
    rows, columns, mean = values.mean(1), values.mean(0), values.mean()
    ms_t = images * ((rows - mean) ** 2).sum() / (trainings - 1)
    ms_i = trainings * ((columns - mean) ** 2).sum() / (images - 1)
    rest = values - rows[:, None] - columns + mean
    ms_ti = (rest**2).sum() / ((trainings - 1) * (images - 1))
    variance = (ms_t + ms_i - ms_ti) / (trainings * images)
    freedom = variance**2 / (
        (ms_t / (trainings * images)) ** 2 / (trainings - 1) + (ms_i / (trainings * images)) ** 2 / (images - 1)
    )
    half = t.ppf(0.975, freedom) * np.sqrt(variance)
    got = crossed(values, np.arange(images))
    assert got[:3] == pytest.approx((mean, mean - half, mean + half))
    assert got.p == pytest.approx(2 * t.sf(mean / np.sqrt(variance), freedom))
    share = crossed(1 / (1 + np.exp(-values)), np.arange(images), share=True)
    plain = crossed(1 / (1 + np.exp(-values)), np.arange(images))
    assert share.mean == plain.mean and 0 < share.low < share.mean < share.high < 1
    assert logit(share.high) - logit(share.low) == pytest.approx(
        (plain.high - plain.low) / (plain.mean * (1 - plain.mean))
    )
    twice = crossed(np.repeat(values, 2, axis=1), np.arange(images).repeat(2))  # the same questions again say nothing
    assert twice == pytest.approx(got)


@pytest.mark.parametrize(
    ("values", "images"), [(np.ones((1, 4)), [0, 0, 1, 1]), (np.ones((2, 4)), [0, 0, 0, 0])], ids=["training", "image"]
)
def test_one_training_or_one_image_has_no_interval(values, images):
    with pytest.raises(ValueError, match="at least two of each"):
        crossed(values, images)


@extended("moments")
@pytest.mark.parametrize("trainings", [3, 5])
@pytest.mark.parametrize("odds", [0.8, 3.0])
@pytest.mark.parametrize(("between", "images"), [(0.0, 50), (0.25, 50), (1.0, 200)])
def test_intervals_cover_new_trainings_and_new_images(trainings, between, images, odds):
    """Scores are right or wrong; every training shifts the odds, every image too, and each training on each image."""
    rng, found, tries = np.random.default_rng(1), 0, 1500
    sides = rng.normal(0, 1, (3, 2_000_000))
    truth = np.mean(1 / (1 + np.exp(-(odds + between * sides[0] + sides[1] + 0.5 * sides[2]))))
    where = np.arange(images).repeat(6)
    for _ in range(tries):
        shift = between * rng.normal(0, 1, (trainings, 1)) + rng.normal(0, 1, images)
        shift = shift + 0.5 * rng.normal(0, 1, (trainings, images))
        scores = rng.random((trainings, 6 * images)) < (1 / (1 + np.exp(-(odds + shift)))).repeat(6, 1)
        interval = crossed(scores.astype(float), where, share=True)
        found += interval.low <= truth <= interval.high
    assert 0.91 <= found / tries <= 0.985  # worst: three trainings that differ by 20 points


def test_a_score_that_is_no_number_is_refused_in_any_training():
    values = np.ones((3, 4))
    values[2, 1] = np.nan
    with pytest.raises(ValueError, match="1 of them NaN"):
        crossed(values, [0, 0, 1, 1])


def made(quality: dict[str, float], seed: int) -> dict[Cell, pd.DataFrame]:
    rng, frames = np.random.default_rng(seed), {}
    for number, (name, share) in enumerate(quality.items()):
        family = "single" if name.startswith("cls") else name
        cell = Cell(name, family, str(number) if family == "single" else "", 144 if name == "full" else 16, "")
        frames[cell] = pd.DataFrame(
            {
                "sample_id": [f"{n:03d}" for n in range(120)],
                "image_id": [f"i{n // 2}" for n in range(120)],
                "score": (rng.random(120) < share).astype(float),
            }
        )
    return frames


QUALITY = {"full": 0.95, "cls[0]": 0.9, "cls[1]": 0.6, "cls[2]": 0.3, "random": 0.4}


def test_a_table_has_each_training_and_their_mean_against_both_controls(tmp_path):
    frames = {name: made(QUALITY, seed) for seed, name in enumerate(("a", "b", "c"))}
    table = trainings_table(frames)
    row = table.set_index("scorer").loc["cls[0]"]
    own = [next(f for cell, f in some.items() if cell.scorer == "cls[0]")["score"].mean() for some in frames.values()]
    assert row[["a", "b", "c"]].tolist() == pytest.approx(own)
    assert row["accuracy"] == pytest.approx(np.mean(own))
    assert (row["trainings"], row["n"], row["images"]) == (3, 120, 60)
    assert row["ci_low"] < row["accuracy"] < row["ci_high"] <= 1
    assert row["delta_vs_random"] > 0.3 and row["delta_vs_random_p_holm"] < 0.05
    assert table.set_index("scorer")["delta_vs_full"].isna().tolist() == [True, False, False, False, False]
    order = agreement_of_order(table, ["a", "b", "c"], "single")
    assert order["rho"].tolist() == [1, 1, 1] and order["n"].tolist() == [3, 3, 3]
    text = write_trainings(frames, tmp_path)
    assert text.startswith("Mean over 3 trainings (a, b, c) on the same 120 questions about 60 images;")
    assert "| 16 | a, b | +1.00 | 3 |" in text and "better" in text
    assert pd.read_csv(tmp_path / "trainings_a_b_c.csv")["scorer"].tolist() == list(QUALITY)
    assert (tmp_path / "trainings_a_b_c.md").read_text() == markdown(table, ["a", "b", "c"])


def test_cells_that_a_training_lacks_are_left_out():
    frames = {"a": made(QUALITY, 0), "b": made({"full": 0.9, "cls[0]": 0.8}, 1)}
    assert trainings_table(frames)["scorer"].tolist() == ["full", "cls[0]"]


def test_trainings_asked_other_questions_are_refused():
    other = {cell: frame.assign(sample_id="x" + frame["sample_id"]) for cell, frame in made(QUALITY, 1).items()}
    with pytest.raises(DataError, match="'b' was asked other questions than 'a'"):
        trainings_table({"a": made(QUALITY, 0), "b": other})
    with pytest.raises(DataError, match="1 trainings"):
        trainings_table({"a": made(QUALITY, 0)})


def test_each_model_has_a_study_of_its_own(tmp_path):
    options = Options("usual", model=("reference", str(tmp_path / "other"), "owner/third"), data=("scenes", "pope:x"))
    names = [name for name, _ in options.each]
    assert names[:3] == ["usual_reference", "usual_other", "usual_third"]
    assert names[3:] == ["usual_pope_reference", "usual_pope_other", "usual_pope_third"]
    assert [config.model for _, config in options.each][:3] == list(options.model)
    with pytest.raises(UnsupportedModel, match="takes one model"):
        _ = replace(options, data=("scenes",)).config


@pytest.mark.parametrize("models", [(), ("a/x", "b/x"), ("x", "x")], ids=["none", "same name", "twice"])
def test_models_that_would_share_a_study_are_refused(models):
    with pytest.raises(UnsupportedModel, match="differ in their last part"):
        Options("usual", model=models).check()
