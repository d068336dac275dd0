import numpy as np
import pytest
import torch

from foveate.core.needs import ClsRows, EvidenceShare, Fingerprint, LayersFrom
from foveate.scorers import ClsAttention, ClsEnsemble, Evidence, Random, Uniform
from foveate.testing.contracts import VisionScorerContract, random_trace

SCORERS = (
    ClsAttention(-2),
    ClsAttention(1, "max"),
    ClsAttention(1, (0, 2)),
    ClsEnsemble(),
    ClsEnsemble((0, 3), (0.2, 0.8)),
    ClsEnsemble(LayersFrom(1), reduce="max"),
    Random(3),
    Uniform(),
    Evidence(),
)


@pytest.mark.parametrize("given", SCORERS, ids=repr)
class TestEveryScorer(VisionScorerContract):
    @pytest.fixture(autouse=True)
    def _given(self, given):
        self.given = given

    def scorer(self):
        return self.given


@pytest.mark.parametrize(("reduce", "numpy"), [("sum", np.sum), ("mean", np.mean), ("max", np.max), ("min", np.min)])
def test_an_ensemble_reduces_weighted_layers(reduce, numpy):
    scorer = ClsEnsemble((0, 1, 2), (0.5, 1.0, 2.0), reduce)
    trace = random_trace(scorer.needs)
    rows = trace[ClsRows((0, 1, 2))].numpy().mean(2) * np.array([0.5, 1.0, 2.0])[:, None]
    np.testing.assert_allclose(scorer.score(trace), numpy(rows, axis=1), rtol=1e-5)


def test_the_wrong_number_of_weights_is_refused():
    scorer = ClsEnsemble((0, 1, 2), (1.0,))
    with pytest.raises(ValueError, match="1 weights for 3 layers"):
        scorer.score(random_trace(scorer.needs))


def test_random_scores_differ_by_seed_and_picture():
    trace = random_trace((Fingerprint(),))
    first, second = Random(0).score(trace), Random(1).score(trace)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_evidence_gives_every_thing_its_best_patch_before_any_its_second():
    share = torch.zeros(1, 2, 48)
    share[0, 0, [3, 4, 5]] = torch.tensor([0.9, 1.0, 0.8])
    share[0, 1, [40, 41]] = torch.tensor([0.1, 0.2])
    trace = random_trace((), batch=1)
    trace = type(trace)({EvidenceShare(): share}, trace.grid, 1)
    order = Evidence().score(trace)[0].argsort(descending=True).tolist()
    assert set(order[:2]) == {4, 41}
    assert set(order[2:4]) == {3, 40}
    assert order[4] == 5
