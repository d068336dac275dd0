import pytest
import torch

from foveate.core.errors import LayerError, UnsupportedNeed
from foveate.core.needs import ClsRows, Fingerprint, LayersFrom, resolve_layers
from foveate.core.types import Compression, Grid, Trace


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
    trace = Trace({Fingerprint(): torch.zeros(1, dtype=torch.long)}, Grid(2, 2), 1)
    with pytest.raises(UnsupportedNeed, match="ClsRows"):
        trace[ClsRows((0,))]


def test_a_compression_is_the_sparse_matrix_it_says():
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(6, (2, 3, 4), generator=generator)
    weight = torch.rand(2, 3, 4, generator=generator)
    features = torch.rand(2, 6, 5, generator=generator)
    matrix = torch.zeros(2, 3, 6).scatter_add_(2, source, weight)
    compression = Compression(source[..., 0], source, weight)
    torch.testing.assert_close(compression.apply(features), matrix @ features)
    assert compression.size.tolist() == [[4, 4, 4], [4, 4, 4]]
