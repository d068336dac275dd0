import pytest
import torch

from foveate.mergers import Drop
from foveate.testing.contracts import MergerContract, random_trace


@pytest.mark.parametrize("given", [Drop()], ids=repr)
class TestEveryMerger(MergerContract):
    @pytest.fixture(autouse=True)
    def _given(self, given):
        self.given = given

    def merger(self):
        return self.given


def test_drop_leaves_kept_features_bit_by_bit():
    features = torch.rand(2, 48, 5)
    kept = torch.tensor([[1, 7], [0, 47]])
    tokens = Drop().merge(features, kept, random_trace(())).apply(features)
    assert torch.equal(tokens, torch.stack([features[0, [1, 7]], features[1, [0, 47]]]))
