import pickle

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial
from scipy import stats

from foveate.core.arrangement import Grid
from foveate.core.errors import BudgetError, FoveateError
from foveate.models.families.llava import Tower
from foveate.scorers import ClsAttention, ClsEnsemble
from foveate.studies.recipes import OneOf, Range, RecipeSpace, opened
from foveate.studies.space import Budget, LayerSpace, layer_space

TOWER = Tower(depth=6, heads=4, feature_layer=4, has_cls=True, grid=Grid(12, 12))
ALL = ("single", "range", "weights", "reduce", "heads", "diversity")


def space_of(*words, keep=(16,)):
    return layer_space(words, keep, TOWER, 4)


def drawn(space, number=200, sampler=None):
    study = optuna.create_study(sampler=sampler or optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(number)]
    return [(trial, space.suggest(trial)) for trial in trials]


def test_free_weights_are_uniform_on_the_simplex():
    weights = np.array([proposal.weights for _, proposal in drawn(space_of("weights"), 1500)])
    np.testing.assert_allclose(weights.sum(1), 1, atol=5e-4)
    for layer in range(6):  # the marginals of a Dirichlet(1, ..., 1) of dimension d are Beta(1, d - 1)
        assert stats.kstest(weights[:, layer], stats.beta(1, 5).cdf).pvalue > 0.01
    covariance = np.cov(weights.T)[0, 1]
    assert covariance == pytest.approx(-1 / (6 * 6 * 7), abs=0.001)


def test_a_kind_suggests_only_the_parameters_that_it_needs():
    for trial, proposal in drawn(space_of(*ALL)):
        suggested = {name.split("_")[0] for name in trial.params} - {"head", "kind", "diversity", "reduce"}
        expected = {"single": {"layer"}, "range": {"start", "end", "decay"}, "weights": {"weight"}}[proposal.family]
        assert suggested <= expected
        assert ("reduce" in trial.params) == (sum(w > 0 for w in proposal.weights) > 1)
        chosen = [value for name, value in trial.params.items() if name.startswith("head_")]
        assert any(chosen) or "head_3" not in trial.params
        heads = proposal.compressor.scorer.heads
        assert heads == "mean" or 1 <= len(heads) < 4
    assert all("kind" not in trial.params for trial, _ in drawn(space_of("range"), 5))


def test_a_range_decays_from_its_last_layer():
    params = {"start": 1, "end": 0.5, "decay": 0.5}
    proposal = space_of("range").suggest(FixedTrial(params))
    assert (proposal.layers, proposal.label) == ("1-3", "cls[1 to 3]")
    np.testing.assert_allclose(proposal.weights, np.array([0, 1, 2, 4, 0, 0]) / 7, atol=1e-4)


@pytest.mark.parametrize("words", [("single",), ("range",), ("weights",), ALL, (*ALL, "prompt")], ids=str)
def test_known_settings_have_parameters_that_give_them_back(words):
    space = space_of(*words)
    for layers in (range(2, 3), range(3, 5), range(6)):
        params = space.params_of(layers)
        if params is None:
            continue
        scorer = space.suggest(FixedTrial(params)).compressor.scorer
        expected = ClsAttention(layers[0]) if len(layers) == 1 else ClsEnsemble(tuple(layers))
        assert scorer == expected
    assert space_of("single").params_of(range(2, 4)) is None
    default = space_of("range").params_of(range(3, 5))
    assert space_of("range").suggest(FixedTrial(default)).compressor.scorer == ClsEnsemble((3, 4))


def test_a_split_budget_costs_the_language_model_the_same():
    cuts = set()
    for trial, proposal in drawn(space_of("weights", "diversity", "prompt")):
        blocks = proposal.compressor.plan(144, 4)
        assert sum(blocks) / 4 == pytest.approx(16, abs=1)
        assert min(blocks) >= 1
        assert blocks[0] <= 144
        cuts.add(len(proposal.compressor.cuts))
        assert ("prompt_share" in trial.params) == bool(proposal.compressor.cuts)
    assert cuts == {0, 1}


def test_opened_budgets_and_masses():
    keeps = {proposal.compressor.keep for _, proposal in drawn(space_of("single", keep=(4, 0.5)))}
    assert min(keeps) >= 4
    assert max(keeps) <= 72
    assert len(keeps) > 20
    for trial, proposal in drawn(space_of("single", "mass"), 20):
        assert proposal.compressor.selector.share == trial.params["mass"]
        assert proposal.compressor.keep == 144
    with pytest.raises(BudgetError, match="one number for a fixed budget or two"):
        space_of("single", keep=(1, 2, 3))
    with pytest.raises(FoveateError, match="mass cannot be combined with diversity and prompt"):
        space_of("mass", "prompt", "diversity")
    with pytest.raises(FoveateError, match=r"did you mean 'weights'.*known are single"):
        space_of("wieghts")


def test_a_sampler_works_on_every_dimension_and_the_space_travels_to_other_processes():
    space = pickle.loads(pickle.dumps(space_of(*ALL, "prompt", keep=(4, 40))))
    assert space == space_of(*ALL, "prompt", keep=(4, 40))
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(lambda trial: -max(space.suggest(trial).weights), 30)
    assert len(study.trials) == 30


def test_options_of_a_method_are_opened_from_text():
    assert opened("fastv", ("layer=1:3",)) == (Range("layer", 1, 3),)
    assert opened("vispruner", ("important_ratio=0.1:0.9:log",)) == (Range("important_ratio", 0.1, 0.9, True),)
    assert opened("cdpruner", ("negated",)) == (OneOf("negated", ("True", "False")),)
    assert opened("scope", ("combine", "alpha=0.5|1.0")) == (
        OneOf("combine", ("'multi'", "'add'")),
        OneOf("alpha", ("0.5", "1.0")),
    )
    space = RecipeSpace("scope", opened("scope", ("combine", "alpha=0.5|1.0")), Budget(16, 16), 6, 4, 144)
    combines = {proposal.compressor.selector.combine for _, proposal in drawn(space, 30)}
    assert combines == {"multi", "add"}
    inside = RecipeSpace("fastv", opened("fastv", ("layer=1:3",)), Budget(80, 80), 6, 4, 144)
    for trial in range(1, 3):
        compressor = inside.suggest(FixedTrial({"layer": trial})).compressor
        assert compressor.layer == trial
        assert sum(compressor.plan(144, 4)) / 4 == pytest.approx(80, abs=1)
    with pytest.raises(BudgetError):
        RecipeSpace("fastv", (), Budget(5, 5), 6, 4, 144).suggest(FixedTrial({}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("layers=1:3", "'layers' of fastv is unknown; its options: layer: "),
        ("layer=3:1", "low must be below high"),
        ("layer=a:b", "expected layer=low:high"),
        ("layer=0:3:log", "above 0"),
        ("layer", "no fixed list of values"),
    ],
)
def test_options_that_are_not_understood_are_named(text, says):
    with pytest.raises(FoveateError, match=says):
        opened("fastv", (text,))


def test_layer_space_repr_identifies_it():
    assert repr(space_of("single")) != repr(space_of("range"))
    assert isinstance(space_of(), LayerSpace)
