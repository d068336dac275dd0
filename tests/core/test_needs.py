import pytest
import torch

from foveate.core.arrangement import Grid
from foveate.core.compression import Compression
from foveate.core.errors import LayerError, UnsupportedNeed
from foveate.core.layers import LayersFrom, resolve_layers
from foveate.core.needs import ClsRows, Fingerprint
from foveate.core.trace import EXTRA, PADDING, Trace


def test_layers_may_be_counted_from_the_end():
    assert resolve_layers((0, -1, -2), depth=6, feature_layer=4) == (0, 5, 4)


def test_a_suffix_ends_at_the_layer_that_writes_the_features():
    assert resolve_layers(LayersFrom(16), depth=24, feature_layer=22) == tuple(range(16, 23))
    assert resolve_layers(LayersFrom(-4), depth=24, feature_layer=22) == (20, 21, 22)


@pytest.mark.parametrize("layers", [(6,), (-7,), LayersFrom(9), LayersFrom(5)])
def test_layers_that_do_not_exist_are_named(layers):
    with pytest.raises(LayerError, match=r"choose 0\.\.5|start at 0\.\.4"):
        resolve_layers(layers, depth=6, feature_layer=4)


def test_a_trace_refuses_what_was_not_recorded():
    trace = Trace({Fingerprint(): torch.zeros(1, dtype=torch.long)}, (Grid(2, 2),), 1)
    with pytest.raises(UnsupportedNeed, match="ClsRows"):
        trace[ClsRows((0,))]


def test_a_compression_is_the_matrix_it_says():
    features = torch.rand(2, 7, 5, generator=torch.Generator().manual_seed(0))  # six patches and [CLS]
    origin = torch.tensor([[EXTRA, 4, 1], [2, 5, PADDING]])
    mixing = torch.zeros(2, 3, 7)
    mixing[0, 0, 6] = mixing[0, 1, 4] = mixing[0, 2, 1] = mixing[1, 0, 2] = 1
    mixing[1, 1, [0, 3, 5]] = torch.tensor([0.25, 0.25, 1.0])
    compression = Compression(origin, mixing)
    expected = torch.stack([features[0, [6, 4, 1]], torch.zeros(3, 5)])
    expected[1, 0] = features[1, 2]
    expected[1, 1] = features[1, 5] + (features[1, 0] + features[1, 3]) / 4
    torch.testing.assert_close(compression.apply(features), expected)
    assert compression.size.tolist() == [[1, 1, 1], [1, 3, 0]]
    assert compression.count.tolist() == [3, 2]
    assert [kept.tolist() for kept in compression.kept] == [[1, 4], [2, 5]]


def test_a_compression_without_mixing_takes_patches_bit_by_bit():
    features = torch.randn(2, 7, 5)
    compression = Compression(torch.tensor([[3, 0], [5, PADDING]]))
    tokens = compression.apply(features)
    assert torch.equal(tokens[0], features[0, [3, 0]])
    assert torch.equal(tokens[1, 0], features[1, 5])
    assert compression.size.tolist() == [[1, 1], [1, 0]]
