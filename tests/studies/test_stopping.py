from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pytest
from optuna.pruners import WilcoxonPruner

from foveate.compressors import Identity
from foveate.core.errors import FoveateError
from foveate.evaluation import EvalConfig
from foveate.studies import stopping
from foveate.studies.objective import Objective
from foveate.studies.plan import DIRECTIONS, SearchPlan
from foveate.studies.space import Budget, LayerSpace
from foveate.studies.stopping import PER_QUESTION, STARTUP, EarlyStopping, P, by_image, paired_difference

IMAGES, BATCH = 40, 4  # images; images of a batch


def records(rng, images=IMAGES, shift=0.0, tokens=16):
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
    return pa.Table.from_pandas(pd.DataFrame(rows))


def means(table):
    return {goal: float(values(table).mean()) for goal, values in PER_QUESTION.items()}


def test_goals_and_paired_differences_equal_those_of_pandas():
    rng = np.random.default_rng(0)
    ours, theirs = records(rng), records(rng, tokens=20)
    frame, other = ours.to_pandas(), theirs.to_pandas()
    assert means(ours)["quality"] == pytest.approx(frame["log_probability"].mean())
    assert means(ours)["tokens"] == 14
    assert by_image(ours, "accuracy") == pytest.approx(frame.groupby("image_id")["score"].mean().to_dict())
    few = pa.Table.from_pandas(frame.sample(50, random_state=0))
    joined = few.to_pandas().merge(other, on="sample_id")
    difference = (joined["log_probability_x"] - joined["log_probability_y"]).mean()
    assert paired_difference(few, theirs, "quality") == pytest.approx(difference)
    assert paired_difference(few, theirs, "tokens") == -4
    assert set(PER_QUESTION) == set(DIRECTIONS) - {"latency"}


def stopped(tmp_path, monkeypatch, ours, theirs, source="sampler"):
    """Returns the early stopping of a trial whose records arrive in batches, after a first trial that is complete."""
    images = dict.fromkeys(theirs["image_id"].to_pylist())
    samples = [SimpleNamespace(image_id=image) for image in theirs["image_id"].to_pylist()]
    monkeypatch.setattr(stopping, "data_of", lambda *_: (samples, "hash"))
    monkeypatch.setattr(stopping, "RecordFolder", lambda _: SimpleNamespace(read=lambda: theirs))
    config = EvalConfig(Identity(), out=tmp_path)
    study = optuna.create_study(direction="maximize", pruner=WilcoxonPruner(p_threshold=P, n_startup_steps=STARTUP))
    first, second = study.ask(), study.ask()
    EarlyStopping(first, config, "quality").report(theirs)
    for name, value in (means(theirs) | {"run_id": "first"}).items():
        first.set_user_attr(name, value)
    study.tell(first, means(theirs)["quality"])
    second.set_user_attr("source", source)
    second = EarlyStopping(second, config, "quality")
    order = np.random.default_rng(0).permutation(list(images)).tolist()
    for end in range(BATCH, len(order) + 1, BATCH):
        if second.enough(ours.filter(pa.compute.is_in(ours["image_id"], pa.array(order[:end])))):
            break
    return second


def test_a_trial_as_good_as_the_best_is_hardly_ever_stopped_and_a_bad_one_nearly_always(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    ended = {shift: 0 for shift in (0.0, -1.0)}
    for _ in range(100):
        theirs = records(rng)
        for shift in ended:
            ended[shift] += bool(stopped(tmp_path, monkeypatch, records(rng, shift=shift), theirs).reason)
    assert ended[0.0] / 100 < 0.05
    assert ended[-1.0] / 100 > 0.9


@pytest.mark.parametrize("source", stopping.NEVER_STOPPED)
def test_a_trial_that_the_report_needs_in_full_is_never_stopped(tmp_path, monkeypatch, source):
    rng = np.random.default_rng(3)
    trial = stopped(tmp_path, monkeypatch, records(rng, shift=-9), records(rng), source)
    assert (trial.reason, trial.estimates) == ("", {})


def test_a_stopped_trial_is_valued_independently_of_how_hard_its_questions_were(tmp_path, monkeypatch):
    theirs = records(np.random.default_rng(4))
    frame = theirs.to_pandas()
    ours = pa.Table.from_pandas(frame.assign(log_probability=frame["log_probability"] - 0.5))
    trial = stopped(tmp_path, monkeypatch, ours, theirs)
    assert trial.reason == f"WilcoxonPruner against trial 0 after {STARTUP} images"
    assert trial.estimates == pytest.approx(means(ours))
    assert trial.estimates["quality"] < means(theirs)["quality"]


@pytest.mark.parametrize(
    ("goals", "max_loss", "expected"),
    [
        (("quality",), None, True),
        (("accuracy",), None, True),
        (("quality",), 1.0, True),
        (("tokens",), 1.0, False),
        (("accuracy", "tokens"), None, False),
        (("quality", "latency"), None, False),
    ],
    ids=str,
)
def test_only_searches_for_one_goal_that_is_measured_on_answers_are_stopped_early(goals, max_loss, expected):
    space = LayerSpace(4, 4, 4, 144, Budget(9, 9), ("weights",))
    assert Objective(EvalConfig(Identity()), space, goals, max_loss, stops=True).pruned is expected
    assert not Objective(EvalConfig(Identity()), space, goals, max_loss, stops=False).pruned


@pytest.mark.parametrize("goals", [(), ("quality", "quality")])
def test_goals_that_no_search_can_have_are_refused(goals):
    with pytest.raises(FoveateError, match="expected one goal, or several different ones"):
        SearchPlan(goals=goals).check()
