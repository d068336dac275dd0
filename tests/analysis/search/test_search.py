"""Numbers and figures of a search against independent ones, on constructed studies and records."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import pandas as pd
import pytest
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.storages import InMemoryStorage
from optuna.trial import create_trial
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from foveate.analysis.search.confirmed import confirmed_table, front_data, optimism
from foveate.analysis.search.data import (
    history_data,
    importance_data,
    proxy_data,
    saving_data,
    singles_data,
    trials_table,
    weights_data,
)
from foveate.analysis.search.figures import confirmed_figure, draw_front, draw_history, draw_weights, importance_figure
from foveate.analysis.search.report import constraint_verdict, markdown, report
from foveate.analysis.statistics import correlation, spearman
from foveate.compressors import Identity
from foveate.core.storage import checksummed
from foveate.evaluation import EvalConfig
from foveate.evaluation.records import Record, RecordFolder
from foveate.studies.search import winners
from tests.tiers import extended

DEPTH, FEATURE_LAYER, PATCHES, IMAGES, ASKED = 6, 4, 144, 50, 4
SKILL = np.array([1.9, 1.2, 0.1, 1.4, 0.4, 0.0])  # of each layer; a mix has more than its best part
_SINGLES = [np.eye(DEPTH)[i] for i in range(DEPTH)]
_DEFAULT, _EQUAL = np.array([0, 0, 0, 0.5, 0.5, 0]), np.full(DEPTH, 1 / DEPTH)


class Made(NamedTuple):
    """A search, the study that confirms it, and where their records are."""

    search: optuna.Study
    test: optuna.Study
    out: Path

    @property
    def config(self) -> EvalConfig:
        return EvalConfig(Identity(), split="search", out=self.out)

    def trial(self, study: optuna.Study, **notes) -> optuna.trial.FrozenTrial:
        """Returns the first trial with these attributes."""
        return next(t for t in study.trials if all(t.user_attrs.get(key) == value for key, value in notes.items()))

    def scores(self, study: optuna.Study, **notes) -> pd.DataFrame:
        """Returns the records of that trial."""
        folder = self.out / "records" / self.trial(study, **notes).user_attrs["run_id"]
        parts = pd.concat([pd.read_parquet(part) for part in folder.glob("part-*.parquet")])
        return parts.sort_values("sample_id", ignore_index=True)


def skill_of(weights: np.ndarray, keep: int) -> float:
    return float(weights @ SKILL + 1.6 * (1 - (weights**2).sum()) + np.log2(keep / 16) - 0.8)


def write_run(out: Path, run_id: str, split: str, skill: float, keep: int, images: int = IMAGES) -> None:
    """Records in which every image has its own difficulty; the same questions for every run of a split."""
    questions = np.random.default_rng([7, split == "test"])
    easy = questions.normal(0.6, 0.9, (IMAGES, 1)) + questions.normal(0, 0.9, (IMAGES, ASKED))
    noise = np.random.default_rng(list(run_id.encode()))
    margin = (easy + skill + noise.normal(0, 0.5, (IMAGES, ASKED)))[:images]
    rows = [
        Record(
            sample_id=f"{split}-{image:03d}-{number}",
            image_id=f"{split}-{image:03d}",
            kind="color",
            question="what color is it?",
            reference="red",
            prediction="red" if margin[image, number] > 0 else "blue",
            score=float(margin[image, number] > 0),
            kept=list(range(keep)),
            tokens=keep,
            tokens_per_block=[keep] * 4,
            text_tokens=12,
            evidence_recall=float(1 / (1 + np.exp(-0.5 * skill - noise.normal(0, 0.4)))),
            things_kept=1.0,
            log_probability=float(-np.log1p(np.exp(-margin[image, number]))),
        )
        for image in range(images)
        for number in range(ASKED)
    ]
    folder = RecordFolder(out / "records" / run_id)
    folder.begin({})
    folder.append(rows[: len(rows) // 2])
    folder.append(rows[len(rows) // 2 :])


class Maker:
    """Adds trials to a search as an objective would."""

    def __init__(self, out: Path, name: str, goals: tuple[str, ...], max_loss: float | None = None) -> None:
        self.out, self.goals, self.max_loss = out, goals, max_loss
        folder = out / name
        folder.mkdir(parents=True)
        directions = ["minimize" if goal in ("tokens", "latency") else "maximize" for goal in goals]
        self.study = optuna.create_study(study_name=name, storage=InMemoryStorage(), directions=directions)
        facts = {"goals": list(goals), "max_loss": max_loss, "depth": DEPTH, "feature_layer": FEATURE_LAYER}
        facts |= {"patches": PATCHES, "grid": [12, 12], "decoder_depth": 4, "samples": IMAGES * ASKED}
        facts |= {"model": "reference", "searched": "single weights", "default_start": 3}
        for key, value in (facts | {"proxy": {"kind": "response", "candidates": 2000}}).items():
            self.study.set_user_attr(key, value)

    def add(self, weights: np.ndarray, source: str, keep: int = 16, images: int = IMAGES, **notes) -> None:
        single = (weights > 0).sum() == 1
        layers = [i for i, weight in enumerate(weights) if weight]
        compressor = f"Keep({np.round(weights, 4).tolist()}, {keep})"
        run_id = f"s{abs(int.from_bytes(compressor.encode(), 'big')) % 10**14}"
        if not (self.out / "records" / run_id).exists():
            write_run(self.out, run_id, "search", skill_of(weights, keep), keep, images)
        records = RecordFolder(self.out / "records" / run_id).read().to_pandas()
        measured = {"accuracy": records["score"].mean(), "quality": records["log_probability"].mean()}
        measured |= {"tokens": float(keep), "latency": 10.0 + keep}
        stopped = "WilcoxonPruner against trial 1 after 20 images" if images < IMAGES else ""
        shown = f"{layers[0]}" if single else f"{layers[0]}-{layers[-1]}"
        attributes = {"run_id": run_id, "label": f"cls[{shown}]" if single else "weights", "layers": shown}
        attributes |= {"family": "single" if single else "weights", "weights": weights.tolist(), "stopped": stopped}
        attributes |= {
            "compressor": compressor,
            "compressor_id": compressor,
            "n": len(records),
            "given": float(keep),
            "source": source,
        }
        attributes |= {"evidence_recall": records["evidence_recall"].mean()} | measured | notes
        params: dict = {"kind": "single" if single else "weights", "keep": keep}
        spread: dict = {"kind": CategoricalDistribution(("single", "weights")), "keep": IntDistribution(1, PATCHES)}
        own = {"layer": layers[0]} if single else {f"weight_{i}": float(weight) for i, weight in enumerate(weights)}
        ranges = {name: IntDistribution(0, 5) if single else FloatDistribution(0, 1) for name in own}
        constraints = {}
        if self.max_loss is not None:
            attributes["accuracy_loss"] = 100 * (0.98 - measured["accuracy"])
            constraints = {"accuracy loss": attributes["accuracy_loss"] - self.max_loss}
        trial = create_trial(
            params=params | own,
            distributions=spread | ranges,
            values=[measured[goal] for goal in self.goals],
            user_attrs=attributes,
            constraints=constraints,
        )
        self.study.add_trial(trial)

    def plan(self, keep: int = 16) -> None:
        """Adds the planned trials of every search."""
        self.add(_DEFAULT, "default", keep)
        self.add(_EQUAL, "ensemble", keep)
        for weights in _SINGLES:
            self.add(weights, "single", keep)


def confirm(maker: Maker, name: str) -> optuna.Study:
    """Returns the study on the confirming split, in the same storage as the search."""
    study = optuna.create_study(study_name=name, storage=maker.study._storage)
    study.set_user_attr("patches", PATCHES)
    found = winners(maker.study)
    several = len(maker.study.directions) > 1
    rows = []
    for number, trial in enumerate(found, 1):
        notes, keep = trial.user_attrs, round(trial.user_attrs["tokens"])
        label = f"front {number}" if several else "winner"
        rows.append((label, "winner", notes["layers"], keep, np.array(notes["weights"]), notes["compressor"]))
    for keep in sorted({row[3] for row in rows}, reverse=True):
        rows += [
            (name, family, layers, keep, weights, f"Keep({np.round(weights, 4).tolist()}, {keep})")
            for name, family, layers, weights in (
                ("published default", "default", "3-4", _DEFAULT),
                ("uniform ensemble", "ensemble", "0-5", _EQUAL),
                ("best single layer", "single", "0", _SINGLES[0]),
            )
        ]
        rows += [("full", "full", "", keep, 3.5, "Identity()"), ("blind", "blind", "", keep, -3.0, "Blind()")]
        rows += [("evidence", "evidence", "", keep, 1.7, f"Evidence({keep})")]
        rows += [("uniform", "uniform", "", keep, 1.0, f"Uniform({keep})"), ("pool", "pool", "", keep, 1.5, "Pool")]
        rows += [(f"random[{seed}]", "random", "", keep, 0.2, f"Random({seed}, {keep})") for seed in range(3)]
    labels = sorted({row[0] for row in rows})
    for label, family, layers, keep, how, compressor in rows:
        run_id = f"t-{label}-{keep}"
        kept = {"full": PATCHES, "blind": 0}.get(family, keep)
        skill = skill_of(how, keep) if isinstance(how, np.ndarray) else how
        write_run(maker.out, run_id, "test", skill, kept)
        ranges = {"scorer": CategoricalDistribution(labels), "keep": IntDistribution(0, PATCHES)}
        notes = {"run_id": run_id, "family": family, "layers": layers, "tokens": float(kept)}
        notes |= {"compressor": compressor, "compressor_id": compressor}
        params = {"scorer": label, "keep": keep}
        study.add_trial(create_trial(params=params, distributions=ranges, value=0.5, user_attrs=notes))
    return study


def random_weights(rng: np.random.Generator) -> np.ndarray:
    return rng.dirichlet(np.ones(DEPTH))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Returns a search for quality: planned trials, 16 of an even sample, 3 of the proxy, 30 of a sampler."""
    out, rng = tmp_path_factory.mktemp("search"), np.random.default_rng(0)
    maker = Maker(out, "weights", ("quality",))
    maker.plan()
    for _ in range(16):
        weights = random_weights(rng)
        maker.add(weights, "spaced", agreement=float(skill_of(weights, 16) + rng.normal(0, 0.3)))
    for _ in range(3):
        maker.add(random_weights(rng), "proxy", images=20, agreement=0.5)
    for number in range(30):
        good = rng.dirichlet([9, 6, 1, 7, 2, 1])
        maker.add(*((random_weights(rng), "sampler", 16, 20) if number % 6 == 5 else (good, "sampler")))
    maker.add(_SINGLES[0], "sampler")  # what a planned trial was
    return Made(maker.study, confirm(maker, "weights_test"), out)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Returns a search for accuracy and few tokens."""
    out, rng = tmp_path_factory.mktemp("several"), np.random.default_rng(1)
    maker = Maker(out, "front", ("accuracy", "tokens"))
    maker.plan(64)
    for number in range(30):
        keep = int(rng.choice([6, 12, 24, 48]))
        if number < 8:
            maker.add(random_weights(rng), "spaced", keep, agreement=float(keep))
        else:
            maker.add(rng.dirichlet([9, 6, 1, 7, 2, 1]), "sampler", keep)
    return Made(maker.study, confirm(maker, "front_test"), out)


def limited(out: Path, max_loss: float) -> Maker:
    """Returns a search for few tokens under a constraint."""
    maker, rng = Maker(out, "limited", ("tokens",), max_loss), np.random.default_rng(2)
    for keep in (64, 32, 8, 24, 4, 16, 28):
        maker.add(rng.dirichlet([9, 6, 1, 7, 2, 1]), "sampler", keep)
    return maker


@pytest.fixture(scope="module")
def constrained(tmp_path_factory: pytest.TempPathFactory) -> Made:
    maker = limited(tmp_path_factory.mktemp("limited"), 12.0)
    return Made(maker.study, confirm(maker, "limited_test"), maker.out)


@pytest.fixture(scope="module")
def table(made: Made) -> pd.DataFrame:
    return confirmed_table(made.search, made.test, made.out)


@pytest.fixture(scope="module")
def several_table(several: Made) -> pd.DataFrame:
    return confirmed_table(several.search, several.test, several.out)


def row(table: pd.DataFrame, scorer: str) -> pd.Series:
    return table[table["scorer"] == scorer].iloc[0]


def test_trials_have_one_row_each_with_values_weights_and_parameters(made):
    rows = trials_table(made.search)
    assert rows["number"].tolist() == [t.number for t in made.search.trials]
    for _, got in rows.iterrows():
        trial = made.search.trials[got["number"]]
        assert (got["value_quality"], got["weights"]) == (trial.value, trial.user_attrs["weights"])
        assert {name: got[name] for name in trial.params} == trial.params
        assert (got["source"], got["run_id"]) == (trial.user_attrs["source"], trial.user_attrs["run_id"])
    assert rows["source"].value_counts().to_dict() == {
        "sampler": 31, "spaced": 16, "single": 6, "proxy": 3, "default": 1, "ensemble": 1,
    }  # fmt: skip


def test_a_parameter_called_like_a_column_hides_nothing(tmp_path):
    maker = Maker(tmp_path, "s", ("quality",))
    maker.add(_EQUAL, "sampler")
    notes = maker.study.trials[0].user_attrs
    params, ranges = {"layers": "1, 2"}, {"layers": CategoricalDistribution(("1, 2", "0"))}
    maker.study.add_trial(create_trial(params=params, distributions=ranges, value=0.1, user_attrs=notes))
    got = trials_table(maker.study).iloc[1]
    assert (got["layers"], got["param_layers"]) == ("0-5", "1, 2")


def test_saved_questions_count_every_run_once(made):
    saved = saving_data(made.search)
    runs = {t.user_attrs["run_id"] for t in made.search.trials}
    answered = {run: sum(len(pd.read_parquet(p)) for p in (made.out / "records" / run).glob("part-*")) for run in runs}
    assert len(runs) == len(made.search.trials) - 1
    assert saved == (57, 8, sum(answered.values()), 57 * 200)
    assert sum(count < 200 for count in answered.values()) == 8


def test_best_so_far_is_the_running_maximum_of_fully_evaluated_trials(made):
    history = history_data(made.search)
    whole = history["value"].where(~history["stopped"])
    assert history["best"].tolist() == whole.cummax().ffill().tolist()
    assert history["best"].iloc[-1] == made.search.best_value
    assert history["stopped"].sum() == 8


def test_best_so_far_ignores_infeasible_trials(constrained):
    history = history_data(constrained.search)
    allowed = np.array([t.user_attrs["accuracy_loss"] <= 12 for t in constrained.search.trials])
    assert 0 < allowed.sum() < len(allowed)
    assert history["feasible"].tolist() == allowed.tolist()
    expected = history["value"].where(allowed).cummin().ffill()
    np.testing.assert_array_equal(history["best"], expected)
    assert history["best"].iloc[-1] == constrained.search.best_trial.value > history["value"].min()


def test_every_goal_has_its_own_history(several):
    history = history_data(several.search)
    for index, (goal, fold) in enumerate((("accuracy", "cummax"), ("tokens", "cummin"))):
        values = pd.Series([t.values[index] for t in several.search.trials])
        assert history.loc[history["goal"] == goal, "best"].tolist() == getattr(values, fold)().tolist()


def test_importance_is_that_of_optuna_with_its_number_of_trials(made):
    (found,) = importance_data(made.search)
    raw = PedAnovaImportanceEvaluator().evaluate(made.search)
    assert found.shares == pytest.approx({name: share / sum(raw.values()) for name, share in raw.items()})
    assert found.rests["kind"] == found.trials == len(made.search.trials)
    assert found.rests["layer"] == sum("layer" in t.params for t in made.search.trials) == 7
    assert found.why == ""


def test_importance_for_a_maximised_goal_of_several_is_about_its_best_trials(tmp_path):
    """Accuracy collapses if `a` is large and is best if `b` is large: only `b` makes a trial good."""
    study, rng = optuna.create_study(directions=["maximize", "minimize"]), np.random.default_rng(0)
    study.set_user_attr("goals", ["accuracy", "tokens"])
    ranges = {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}
    for a, b, noise in rng.random((200, 3)):
        values = [(b > 0.9) - 5.0 * (a > 0.85) + 0.01 * noise, a]
        study.add_trial(create_trial(params={"a": a, "b": b}, distributions=ranges, values=values))
    accuracy, tokens = importance_data(study)
    assert accuracy.shares["b"] > 0.7
    assert tokens.shares["a"] > 0.9


@pytest.mark.parametrize(
    ("values", "why"), [([0.1] * 5, "5 trials are too few"), ([0.5] * 20, "all trials have the same value")]
)
def test_importance_is_not_made_up(values, why):
    study = optuna.create_study()
    study.set_user_attr("goals", ["tokens"])
    ranges = {"a": FloatDistribution(0, 1)}
    for number, value in enumerate(values):
        study.add_trial(create_trial(params={"a": number / len(values)}, distributions=ranges, value=value))
    (found,) = importance_data(study)
    assert (found.shares, found.why) == ({}, why)
    assert why in {text.get_text() for text in importance_figure([found]).axes[0].texts}


def test_rank_correlations_equal_those_of_scipy_row_by_row():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 6, (7, 15)).astype(float), rng.random((7, 15)).round(1)
    assert spearman(a, b) == pytest.approx([stats.spearmanr(x, y)[0] for x, y in zip(a, b, strict=True)])
    assert spearman(a.T, b.T, axis=0) == pytest.approx(spearman(a, b))
    assert spearman(np.ones(4), np.arange(4.0)) == 0


def test_p_of_a_rank_correlation_is_close_to_the_asymptotic_one():
    rng = np.random.default_rng(4)
    a, b = rng.random(60), rng.random(60)
    b = b + 0.5 * a
    assert correlation(a, b).p == pytest.approx(stats.spearmanr(a, b).pvalue, abs=0.01)
    assert np.isnan(correlation(a, np.ones(60))[:4]).all()


def test_interval_of_a_rank_correlation_is_close_to_fishers():
    rng = np.random.default_rng(5)
    a = rng.normal(size=200)
    found = correlation(a, a + rng.normal(size=200))
    half = 1.96 * np.sqrt((1 + found.value**2 / 2) / 197)  # Bonett and Wright 2000
    expected = np.tanh(np.arctanh(found.value) + np.array([-half, half]))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.03)


def test_the_first_rung_is_judged_on_the_even_sample_only(made):
    proxy = proxy_data(made.search)
    rows = pd.DataFrame([t.user_attrs for t in made.search.trials])
    rows = rows[rows["source"] == "spaced"]
    assert len(proxy.trials) == len(rows) == 16
    assert len(proxy.correlations) == 4
    for (signal, measure), one in proxy.correlations.items():
        assert one.value == pytest.approx(stats.spearmanr(rows[signal], rows[measure])[0])
        assert one.low < one.value < one.high
        assert (one.n, one.p < 1) == (16, True)


def test_no_first_rung_has_no_correlation(constrained):
    assert proxy_data(constrained.search) is None


def test_weights_sum_to_one_and_show_the_ten_best_that_were_finished(made):
    found = winners(made.search)
    weights = weights_data(made.search, found)
    lines = weights.pivot_table(index=["role", "trial"], columns="layer", values="weight", sort=False)
    np.testing.assert_allclose(lines.sum(axis=1), 1)
    whole = [t for t in made.search.trials if not t.user_attrs["stopped"]]
    ten = sorted(whole, key=lambda t: -t.value)[:10]
    assert set(lines.loc["among the ten best"].index) == {t.number for t in ten}
    assert lines.loc["winner"].to_numpy() == pytest.approx(np.array([found[0].user_attrs["weights"]]))
    assert lines.loc["published default"].to_numpy().tolist() == [[0, 0, 0, 0.5, 0.5, 0]]
    assert lines.loc["uniform ensemble"].to_numpy() == pytest.approx(np.full((1, 6), 1 / 6))


def test_the_ten_best_keep_the_constraint(constrained):
    weights = weights_data(constrained.search, winners(constrained.search))
    shown = {t for t in weights["trial"] if t >= 0}
    assert shown == {t.number for t in constrained.search.trials if t.user_attrs["accuracy_loss"] <= 12}


def test_single_layers_have_their_accuracy_on_the_searched_split(made):
    alone = singles_data(made.search, made.out)
    assert alone["layer"].tolist() == list(range(6))
    expected = [made.scores(made.search, label=f"cls[{i}]")["score"].mean() for i in range(6)]
    assert alone["accuracy"].tolist() == pytest.approx(expected)
    assert set(alone["n"]) == {200}
    assert ((alone["ci_low"] <= alone["accuracy"]) & (alone["accuracy"] <= alone["ci_high"])).all()


def test_the_table_is_that_of_the_records(made, table):
    frames = {t.params["scorer"]: made.scores(made.test, run_id=t.user_attrs["run_id"]) for t in made.test.trials}
    frames["random"] = frames["random[0]"].assign(
        score=np.mean([frames[f"random[{i}]"]["score"] for i in range(3)], axis=0),
        log_probability=np.mean([frames[f"random[{i}]"]["log_probability"] for i in range(3)], axis=0),
    )
    assert table["scorer"].tolist()[:5] == [
        "full", "winner", "best single layer", "uniform ensemble", "published default",
    ]  # fmt: skip
    for _, got in table.iterrows():
        frame = frames[got["scorer"]]
        assert (got["n"], got["images"]) == (200, 50)
        assert got["accuracy"] == pytest.approx(frame["score"].mean())
        assert got["log_probability"] == pytest.approx(frame["log_probability"].mean())
        half = 1.96 * stats.sem(frame.groupby("image_id")["log_probability"].mean())
        assert got["log_high"] - got["log_probability"] == pytest.approx(half, rel=0.35)
        if got["scorer"] not in ("winner", "full", "blind"):
            assert got["winner_gains"] == pytest.approx((frames["winner"]["score"] - frame["score"]).mean())
            assert got["gain_low"] <= got["winner_gains"] <= got["gain_high"]


def test_p_values_are_sign_flips_corrected_by_holm(made, table):
    winner = made.scores(made.test, run_id="t-winner-16")
    raw = {}
    for name in ("best single layer", "uniform ensemble", "published default", "uniform", "pool", "evidence"):
        gains = winner["score"] - made.scores(made.test, run_id=f"t-{name}-16")["score"]
        sums = gains.groupby(winner["image_id"]).sum().to_numpy()
        one = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=20_000, rng=0)
        raw[name] = one.pvalue
    gains = winner["score"] - np.mean(
        [made.scores(made.test, run_id=f"t-random[{i}]-16")["score"] for i in range(3)], 0
    )
    sums = gains.groupby(winner["image_id"]).sum().to_numpy()
    one = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=20_000, rng=0)
    raw["random"] = one.pvalue
    expected = dict(zip(raw, multipletests(list(raw.values()), method="holm")[1], strict=True))
    assert table["p_holm"].notna().sum() == len(raw)
    for name, p in expected.items():
        assert row(table, name)["p_holm"] == pytest.approx(p, abs=0.02)


def test_optimism_is_the_searched_split_minus_the_other(made, table):
    runs = {
        "winner": winners(made.search)[0].user_attrs["run_id"],
        "best single layer": made.trial(made.search, label="cls[0]").user_attrs["run_id"],
        "published default": made.trial(made.search, source="default").user_attrs["run_id"],
    }
    for name, run in runs.items():
        searched, confirmed = made.scores(made.search, run_id=run), made.scores(made.test, run_id=f"t-{name}-16")
        a, b = (frame.groupby("image_id")["score"].mean() for frame in (searched, confirmed))
        got = row(table, name)
        assert got["optimism"] == pytest.approx(a.mean() - b.mean())
        half = np.hypot(*(stats.t.ppf(0.975, len(x) - 1) * stats.sem(x) for x in (a, b)))  # two independent samples
        assert got["optimism_high"] - got["optimism_low"] == pytest.approx(2 * half, rel=0.1)
    assert row(table, "full")[["optimism", "optimism_low", "optimism_high"]].isna().all()


def scored(scores: list[float], images: int) -> pd.DataFrame:
    return pd.DataFrame({"image_id": np.arange(len(scores)) % images, "score": scores})


def test_optimism_claims_no_certainty_where_all_images_agree():
    n = 10 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 9)) ** 2  # of the variance, which 10 images estimate
    low, high = proportion_confint(0, n, method="wilson")
    found = optimism(scored([1.0] * 10, 10), scored([1.0] * 10, 10))
    assert (found.mean, found.low, found.high) == (0, pytest.approx(-high), pytest.approx(high))
    assert low == pytest.approx(0)
    assert np.isnan(optimism(scored([1.0, 0.0], 1), scored([1.0, 0.0], 2))[1:3]).all()


def test_one_image_has_no_interval_of_its_log_probability(tmp_path):
    maker = Maker(tmp_path, "s", ("quality",))
    maker.study.set_user_attr("samples", ASKED)
    maker.plan()
    test = confirm(maker, "s_test")
    for folder in (tmp_path / "records").iterdir():
        for part in folder.glob("part-*"):
            frame = pd.read_parquet(part)
            part.unlink()
            frame = frame[frame["image_id"] == frame["image_id"].iloc[0].split("-")[0] + "-000"]
            if len(frame):
                with checksummed(folder, part.name.split(".")[0], ".parquet") as path:
                    frame.to_parquet(path)
    got = row(confirmed_table(maker.study, test, tmp_path), "winner")
    assert got["images"] == 1
    assert np.isfinite(got["log_probability"])
    assert got[["log_low", "log_high", "optimism_low", "optimism_high"]].isna().all()
    assert "[no interval]" in report(maker.study, test, EvalConfig(Identity(), out=tmp_path))


def test_the_front_is_that_of_the_trials_and_of_the_table(several, several_table):
    front = front_data(several.search, several.test, winners(several.search), several_table)
    values = np.array([t.values for t in several.search.trials]) * [-1, 1]
    dominated = [(np.all(values <= v, axis=1) & np.any(values < v, axis=1)).any() for v in values]
    assert set(front.members["trial"]) == {
        t.number for t, lost in zip(several.search.trials, dominated, strict=True) if not lost
    }
    assert front.goals == ("tokens", "accuracy")
    for _, got in front.members.iterrows():
        trial = several.search.trials[got["trial"]]
        assert (got["y"], got["x"]) == (trial.values[0], trial.values[1])
        frame = several.scores(several.test, run_id=f"t-{got['scorer']}-{trial.params['keep']}")
        assert (got["test_x"], got["test_y"]) == (trial.params["keep"], pytest.approx(frame["score"].mean()))
    assert len(front.members) + len(front.tried) == len(several.search.trials)
    assert set(front.controls["scorer"]) == {"random", "uniform"}
    assert set(front.controls["x"]) == set(front.members["x"])
    ax = draw_front(front, Figure().subplots())
    assert {text.get_text() for text in ax.texts} == {"random", "uniform"}


def test_the_baselines_of_a_budget_are_compared_with_its_member_of_the_front(several, several_table):
    members = several_table[several_table["family"] == "winner"]
    assert len(members) > 2
    assert members["winner_gains"].isna().all()
    for _, member in members.iterrows():
        frame = several.scores(several.test, run_id=f"t-{member['scorer']}-{member['keep']}")
        default = several.scores(several.test, run_id=f"t-published default-{member['keep']}")
        rows = several_table[several_table["keep"] == member["keep"]]
        gain = (frame["score"] - default["score"]).mean()
        assert row(rows, "published default")["winner_gains"] == pytest.approx(gain)


def test_the_winner_of_two_members_with_one_budget_is_the_better_one_on_the_searched_split(tmp_path):
    maker = Maker(tmp_path, "s", ("accuracy", "quality"))
    weak, strong = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]), np.array([0.4, 0.2, 0.0, 0.3, 0.05, 0.05])
    maker.add(strong, "sampler", accuracy=0.9, quality=-0.9)
    maker.add(weak, "sampler", accuracy=0.8, quality=-0.1)
    trials = maker.study.trials
    maker = Maker(tmp_path, "t", ("accuracy", "quality"))
    for trial, values in zip(trials, ([0.9, -0.9], [0.8, -0.1]), strict=True):
        trial.values = values
        maker.study.add_trial(trial)
    test = confirm(maker, "t_test")
    table = confirmed_table(maker.study, test, tmp_path)
    strong_run = next(
        t.user_attrs["run_id"] for t in test.trials if t.user_attrs["compressor"] == trials[0].user_attrs["compressor"]
    )
    made = Made(maker.study, test, tmp_path)
    gain = made.scores(test, run_id=strong_run)["score"] - made.scores(test, run_id="t-pool-16")["score"]
    assert row(table, "pool")["winner_gains"] == pytest.approx(gain.mean())


def test_a_winner_that_is_a_baseline_gains_nothing_over_it(tmp_path):
    maker = Maker(tmp_path, "s", ("quality",))
    maker.plan()
    made = Made(maker.study, confirm(maker, "s_test"), tmp_path)
    study = optuna.create_study()
    study.set_user_attr("patches", PATCHES)
    assert winners(maker.study)[0].user_attrs["source"] == "ensemble"
    for one in made.test.trials:  # equal compressors have equal records
        if one.params["scorer"] == "uniform ensemble":
            one.user_attrs["run_id"] = "t-winner-16"
        study.add_trial(one)
    table = confirmed_table(maker.study, study, tmp_path)
    got = row(table, "uniform ensemble")
    assert got[["winner_gains", "gain_low", "gain_high"]].tolist() == [0, 0, 0]
    assert np.isnan(got["p_holm"])
    assert "| +0.0 [+0.0, +0.0] | - |  |" in next(
        line for line in markdown(table).splitlines() if "uniform ensemble" in line
    )


def test_history_draws_a_point_per_trial_and_rings_for_the_stopped(made):
    history = history_data(made.search)
    ax = draw_history(history, Figure().subplots())
    assert sum(len(points.get_offsets()) for points in ax.collections) == len(history)
    rings = [points for points in ax.collections if not len(points.get_facecolors())]
    assert sum(len(points.get_offsets()) for points in rings) == history["stopped"].sum()


def test_weights_are_drawn_with_the_winner_on_top(made):
    ax = draw_weights(weights_data(made.search, winners(made.search)), FEATURE_LAYER, Figure().subplots())
    assert len(ax.lines) == 13
    assert max(ax.lines, key=lambda line: line.get_zorder()).get_label() == "winner"


def test_confirmed_rows_are_named_best_first(table):
    ax = confirmed_figure(table).axes[0]
    names = [tick.get_text() for tick in ax.get_yticklabels()][::-1]
    shown = table[table["keep"] == 16].sort_values("accuracy", ascending=False)
    assert [name.split(" (")[0] for name in names] == shown["scorer"].tolist()
    assert "random (3 seeds)" in names


@extended("every")
def test_the_report_is_complete_and_the_same_when_written_again(made, table):
    folder = made.out / "weights"
    files = [
        "history.png",
        "importance.png",
        "proxy.png",
        "table.csv",
        "table.md",
        "test.png",
        "trials.csv",
        "weights.png",
    ]
    printed, written = [], []
    for _ in range(2):
        printed.append(report(made.search, made.test, made.config))
        written.append({name: (folder / name).read_bytes() for name in files})
    assert printed[0] == printed[1]
    assert written[0] == written[1]
    winner = winners(made.search)[0]
    assert f"| {len(made.search.trials)} | 57 | 8 |" in printed[0]
    assert f"| trial {winner.number} | weights | layer 0: " in printed[0]
    assert re.search(r"\| agreement with response \| accuracy \| .* \| (positive|not significant) \|", printed[0])
    assert "| quality | " in printed[0]
    assert markdown(table).strip() in printed[0]
    read = pd.read_csv(folder / "table.csv")
    assert read["accuracy"].tolist() == pytest.approx(table["accuracy"].tolist(), abs=1e-6)


@extended("every")
def test_the_report_of_several_goals_shows_the_front(several):
    text = report(several.search, several.test, several.config)
    assert (several.out / "front" / "front.png").exists()
    assert re.search(r"\| uniform ensemble \| .* \| (better|worse|not significant) \|", text)


def test_the_report_has_the_verdict_on_the_constraint_on_the_confirming_split(constrained):
    text = report(constrained.search, constrained.test, constrained.config)
    table = confirmed_table(constrained.search, constrained.test, constrained.out)
    winner = row(table, "winner")
    found = constrained.scores(constrained.test, run_id=f"t-winner-{winner['keep']}")
    full = constrained.trial(constrained.test, family="full").user_attrs["run_id"]
    delta = 100 * (found["score"] - constrained.scores(constrained.test, run_id=full)["score"]).mean()
    assert "| loss of at most 12 points |" in text
    assert re.search(rf"\| {re.escape(f'{delta:+.1f}')} \[.*\] \| {constraint_verdict(winner, 12.0)} \|", text)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [((-0.11, -0.02), "within"), ((-0.13, -0.02), "not significant"), ((-0.30, -0.13), "beyond")],
)
def test_a_constraint_is_judged_by_both_ends_of_the_interval(ends, expected):
    assert constraint_verdict(pd.Series({"delta_ci_low": ends[0], "delta_ci_high": ends[1]}), 12.0) == expected


def test_without_a_feasible_trial_the_report_has_no_winner(tmp_path):
    maker = limited(tmp_path, -50.0)
    text = report(maker.study, None, EvalConfig(Identity(), out=tmp_path))
    assert "there is no winner" in text
    assert "--max-loss" in text
    assert (tmp_path / "limited" / "history.png").exists()


def test_an_empty_search_is_reported(tmp_path):
    text = report(Maker(tmp_path, "s", ("quality",)).study, None, EvalConfig(Identity(), out=tmp_path))
    assert "| 0 | 0 | 0 | 0 of 0 |" in text
    assert "there is no winner" in text


@pytest.mark.parametrize(
    ("gain", "p", "verdict"),
    [(0.05, 0.001, "better"), (-0.05, 0.001, "worse"), (0.05, 0.4, "not significant"), (0.0, np.nan, "")],
)
def test_the_verdict_is_that_of_the_gain(table, gain, p, verdict):
    some = table[table["scorer"] == "best single layer"].assign(winner_gains=gain, p_holm=p)
    assert markdown(some).splitlines()[-1].split(" | ")[6].strip() == verdict


def test_too_few_images_allow_no_verdicts(table):
    text = markdown(table.assign(images=3))
    assert "Too few images for any test (n = 3)." in text
    assert not any(f" {word} |" in text for word in ("better", "worse", "not significant"))
