import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from foveate.studies.goals import by_image, gain, mean_of
from foveate.studies.stopping import STARTUP, P, Rival, corrected, dominated, optimistic


def records(rng, images=40, shift=0.0, tokens=16, only=None):
    rows = [
        {
            "sample_id": f"{i}-{q}",
            "image_id": f"i{i}",
            "score": float(rng.random() < 0.8),
            "log_probability": rng.normal(-1 - (i % 5), 1) + shift,
            "tokens_per_block": [tokens, tokens - 4],
        }
        for i in range(images)
        for q in range(3 + i % 2)
    ]
    frame = pd.DataFrame(rows)
    return pa.Table.from_pandas(frame if only is None else frame[frame["image_id"].isin(only)])


def test_goals_and_gains_equal_those_of_pandas():
    rng = np.random.default_rng(0)
    ours, theirs = records(rng), records(rng, tokens=20)
    frame, other = ours.to_pandas(), theirs.to_pandas()
    assert mean_of(ours, "quality") == pytest.approx(frame["log_probability"].mean())
    assert mean_of(ours, "tokens") == 14
    assert by_image(ours, "accuracy") == pytest.approx(frame.groupby("image_id")["score"].mean().to_dict())
    few = pa.Table.from_pandas(frame.sample(50, random_state=0))
    joined = few.to_pandas().merge(other, on="sample_id")
    difference = joined["log_probability_x"] - joined["log_probability_y"]
    found = gain(few, theirs, "quality")
    assert found.mean == pytest.approx(difference.mean())
    per_image = difference.groupby(joined["image_id_x"]).mean()
    np.testing.assert_allclose(np.sort(found.images), np.sort(per_image))
    assert gain(few, theirs, "tokens").mean == 4  # fewer is better


def test_the_optimistic_bound_is_the_one_sided_interval_of_scipy():
    values = np.random.default_rng(1).normal(-0.2, 1, 50)
    interval = stats.ttest_1samp(values, 0, alternative="less").confidence_interval(1 - P)
    assert optimistic(values) == pytest.approx(interval.high)
    assert optimistic(np.full(STARTUP, -2.0)) == -2
    assert optimistic(values[: STARTUP - 1]) == np.inf


def test_a_trial_as_good_as_its_rival_is_hardly_ever_given_up_and_a_bad_one_nearly_always():
    rng = np.random.default_rng(2)
    gone = {shift: 0 for shift in (0.0, -1.0)}
    for _ in range(200):
        theirs = records(rng)
        for shift in gone:
            gains = [gain(records(rng, shift=shift), theirs, "quality"), 0.0]
            gone[shift] += dominated(gains)
    assert gone[0.0] / 200 < 0.03
    assert gone[-1.0] / 200 > 0.9


def test_whoever_is_better_in_one_goal_is_never_dominated():
    rng = np.random.default_rng(3)
    theirs, worse = records(rng, tokens=20), records(rng, shift=-2)
    gains = [gain(worse, theirs, goal) for goal in ("quality", "tokens")]
    assert not dominated(gains)
    assert dominated([gains[0], -1.0])
    assert not dominated([gains[0], 1.0])


def test_a_stopped_trial_is_valued_independently_of_how_hard_its_questions_were():
    rng = np.random.default_rng(4)
    theirs = records(rng)
    rival = Rival(0, theirs, {"quality": mean_of(theirs, "quality"), "tokens": mean_of(theirs, "tokens")})
    frame = theirs.to_pandas()
    ours = pa.Table.from_pandas(frame.assign(log_probability=frame["log_probability"] - 0.5))
    easy = [f"i{i}" for i in range(0, 40, 5)]  # the best fifth
    part = ours.filter(pa.compute.is_in(ours["image_id"], pa.array(easy)))
    estimate = corrected(rival, {"quality": gain(part, theirs, "quality")})["quality"]
    assert estimate == pytest.approx(mean_of(ours, "quality"))
    assert mean_of(part, "quality") > mean_of(ours, "quality") + 1
