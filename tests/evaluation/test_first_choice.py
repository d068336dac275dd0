"""One choice for several questions about an image: what it keeps, what it answers, and which batch it is in."""

from dataclasses import dataclass, replace

import pytest
import torch

from foveate.compressors import DecoderCompressor, FirstChoice, VisionCompressor
from foveate.core.contracts import Scorer
from foveate.core.errors import FoveateError, OptionError, UnknownMethod
from foveate.data.load import load_samples
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.leaders import leaders_of
from foveate.methods import evidence, fastv, mmtok, pyramiddrop, vscan, vtc_cls
from foveate.methods.fitting import method, sharing
from foveate.models.loading.load import load
from foveate.scorers import Constant
from tests.evaluation.test_family_evaluation import live
from tests.tiers import parametrize

NEW, TURNS, LIMIT = 4, 3, 14
METHODS = {
    "fastv": fastv(20, 2),
    "pyramiddrop": pyramiddrop(20, (2, 4, 6)),
    "mmtok": mmtok(20),
    "vscan": vscan(20, 1, 4),
    "evidence": evidence(20),
}


@dataclass(frozen=True)
class Given(Scorer):
    """Prefers some patches."""

    patches: tuple[int, ...]

    def score(self, trace):
        return Constant().score(trace) * 0 + torch.isin(torch.arange(trace.patches), torch.tensor(self.patches))


def records(compressor, out, batch_size=64, limit=LIMIT):
    config = EvalConfig(compressor, limit=limit, max_new_tokens=NEW, batch_size=batch_size, out=out)
    rows = evaluate(config).read().to_pylist()
    return {
        row["sample_id"]: row | {"log_probability": pytest.approx(row["log_probability"], abs=1e-4)} for row in rows
    }


def unapproximated(row):
    """Returns the row with the number that `records` compares loosely, because later digits depend on the batch."""
    return row | {"log_probability": row["log_probability"].expected}


@parametrize("name", METHODS, fast=("fastv", "mmtok"))
def test_the_first_choice_is_kept_whatever_the_batch_and_answers_differ_from_own_choices(name, tmp_path):
    own, shared = METHODS[name], FirstChoice(METHODS[name], TURNS)
    chosen, followed = records(own, tmp_path), records(shared, tmp_path)
    leaders = leaders_of(load_samples("scenes", "test", LIMIT), TURNS)
    assert len(followed) == LIMIT and {leaders[i].id for i in followed} < set(followed)
    for sample_id, row in followed.items():
        assert row["kept"] == chosen[leaders[sample_id].id]["kept"]
        assert row["tokens_per_block"] == chosen[leaders[sample_id].id]["tokens_per_block"]
        if leaders[sample_id].id == sample_id:
            assert unapproximated(row) == chosen[sample_id]
    assert any(row["kept"] != chosen[sample_id]["kept"] for sample_id, row in followed.items())
    again = records(shared, tmp_path / "small", batch_size=2)
    assert {name: unapproximated(row) for name, row in again.items()} == followed  # leaders are in other batches


@torch.no_grad()
@pytest.mark.parametrize("inside", [True, False])
def test_a_shared_choice_answers_as_stock_generate_with_these_patches(inside, tmp_path):
    loaded = load()
    followed = records(FirstChoice(METHODS["fastv" if inside else "mmtok"], TURNS), tmp_path)
    for sample in load_samples("scenes", "test", LIMIT):
        row = followed[sample.id]
        given = Given(tuple(row["kept"]))
        fixed = DecoderCompressor(given, 20, 2) if inside else VisionCompressor(given, 20)
        assert live(loaded, fixed, sample) == (row["prediction"], row["kept"])


def test_a_method_that_does_not_read_questions_stays_as_it_is(tmp_path):
    shared, own = records(FirstChoice(vtc_cls(20, 4), 7), tmp_path), records(vtc_cls(20, 4), tmp_path)
    assert {name: unapproximated(row) for name, row in shared.items()} == own


def test_leaders_are_the_first_of_so_many_questions_about_their_image():
    samples = load_samples("scenes", "test", 14)
    leaders = leaders_of([replace(samples[0], sources=()), *samples[1:]], 3)
    names = [sample.id for sample in samples]
    assert len({sample.image_id for sample in samples}) == 2
    found = [names.index(leaders[name].id) for name in names[1:]]
    assert found == [1, 1, 1, 4, 4, 4, 7, 7, 7, 10, 10, 10, 13] and names[0] not in leaders
    assert leaders_of(samples, 1) == {}


def test_only_evaluations_share_choices():
    compressor = FirstChoice(fastv(20, 2), 2)
    with pytest.raises(FoveateError, match="only evaluations"), compressor.attached(load()):
        pass
    with pytest.raises(OptionError, match="turns=1"):
        FirstChoice(fastv(20, 2), 1)


def test_names_say_how_many_questions_share_a_choice():
    assert method("vtc_cls+per_tile+first_of_12")(20) == FirstChoice(method("vtc_cls+per_tile")(20), 12)
    assert method("fastv+first_of_2").__name__ == "fastv+first_of_2"
    for wrong in ("fastv+first_of_1", "fastv+first_of_", "fastv+first_of_06"):
        with pytest.raises(UnknownMethod, match=r"\+first_of_2 to"):
            method(wrong)


def test_only_methods_that_read_questions_are_compared_with_shared_choices():
    names = ("vtc_cls", "fastv", "sparsevlm", "cdpruner", "random_inside", "mmtok+first_of_3", "full", "vscan")
    assert sharing(names, 4) == {name: f"{name}+first_of_4" for name in ("fastv", "sparsevlm", "cdpruner", "vscan")}
