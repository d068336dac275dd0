import pytest
import torch

from foveate.core.compression import Block
from foveate.core.errors import BudgetError, LayerError
from foveate.reductions import Bipartite, InformationFlow


def block(layer=0, feature_layer=4, keep=5, patches=16, batch=2, has_cls=True, real=None):
    generator = torch.Generator().manual_seed(layer)
    query, key, value = torch.randn(3, batch, 4, patches + has_cls, 6, generator=generator)
    real = torch.ones(batch, patches + has_cls, dtype=torch.bool) if real is None else real
    return Block(layer, feature_layer, keep, query, key, value, 6**-0.5, real, real.long(), has_cls)


@pytest.mark.parametrize("reduction", [Bipartite(), InformationFlow()], ids=repr)
def test_a_reduction_is_a_frozen_value(reduction):
    assert reduction == type(reduction)()
    assert hash(reduction) == hash(type(reduction)())
    with pytest.raises(AttributeError):
        reduction.anything = 1


@pytest.mark.parametrize(
    ("feature_layer", "layers"), [(22, range(1, 22, 2)), (4, [1, 3]), (3, [0, 2]), (1, [0]), (2, [1])]
)
def test_information_flow_drops_on_every_second_block_up_to_one_before_the_feature_layer(feature_layer, layers):
    acts = []
    for layer in range(feature_layer + 1):
        step, _ = InformationFlow().reduce(block(layer, feature_layer, keep=1, patches=64), None)
        acts += [layer] if step.count.min() < 65 else []
    assert acts == list(layers)


def test_information_flow_of_one_block_equals_a_naive_version():
    given = block(1)
    running = torch.rand(2, 16)
    step, state = InformationFlow().reduce(given, running)
    for image in range(2):
        query, key, value = given.query[image], given.key[image], given.value[image]
        attention = torch.stack([(query[h, 0] @ key[h].T / 6**0.5).softmax(0) for h in range(4)]).mean(0)[1:]
        alike = torch.stack([(value[h, 0] @ value[h].T).softmax(0) for h in range(4)]).mean(0)[1:]
        attention, alike = attention / attention.sum(), alike / alike.sum()
        flow = (attention + alike) * torch.linalg.vector_norm(value.mean(0)[1:], 1, dim=-1)
        flow = (flow + running[image]) / 2
        entropy = torch.distributions.Categorical(attention).entropy() / torch.tensor(16.0).log()
        left = 16 - round(float((16 - 5) / 2**0.5 * (1 - entropy**2)))
        kept = flow.argsort(descending=True)[:left].sort().values
        assert step.origin[image, : left + 1].tolist() == [0, *(kept + 1).tolist()]
        assert int(step.count[image]) == left + 1
        torch.testing.assert_close(state[image, :left], flow[kept])


def test_information_flow_never_reads_what_is_not_there():
    real = torch.ones(2, 17, dtype=torch.bool)
    real[1, 10:] = False
    ragged = block(1, real=real)
    running = torch.rand(2, 16)
    together, state = InformationFlow().reduce(ragged, running)
    alone = Block(1, 4, 5, *(t[1:, :, :10] for t in (ragged.query, ragged.key, ragged.value)), 6**-0.5, real[1:, :10],
                  real[1:, :10].long(), True)  # fmt: skip
    single, own = InformationFlow().reduce(alone, running[1:, :9])
    count = int(single.count)
    assert int(together.count[1]) == count
    assert torch.equal(together.origin[1, :count], single.origin[0])
    torch.testing.assert_close(state[1, : count - 1], own[0])


def test_information_flow_needs_a_block_before_the_feature_layer():
    with pytest.raises(LayerError, match="layer 0"):
        InformationFlow().reduce(block(0, 0), None)


@pytest.mark.parametrize("patches", [16, 17, 576])
@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("blocks", [1, 4, 23])
def test_bipartite_ends_with_exactly_the_budget_wherever_halving_can_reach_it(patches, has_cls, blocks):
    for keep in {1, 2, 3, 8, 9, 15, patches // 2, patches - 1, patches}:
        tokens = patches
        sizes = []
        if patches > keep * 2**blocks:
            with pytest.raises(BudgetError, match=f"keep at least {-(-patches // 2**blocks)}"):
                Bipartite().reduce(block(0, blocks - 1, keep, patches, 1, has_cls), None)
            continue
        for layer in range(blocks):
            step, _ = Bipartite().reduce(block(layer, blocks - 1, keep, tokens, 1, has_cls), None)
            sizes.append(tokens + has_cls - int(step.count))
            tokens = int(step.count) - has_cls
        assert tokens == keep
        if keep >= 2 * patches / blocks:
            assert max(sizes) - min(sizes) <= 1


def test_bipartite_weighs_by_size_and_leaves_cls_alone():
    given = block(keep=12, patches=16)
    sizes = torch.randint(1, 9, (2, 17))
    given = Block(4, 4, 12, given.query, given.key, given.value, 1.0, given.real, sizes, True)
    step, state = Bipartite().reduce(given, None)
    assert state is None
    assert step.origin[:, 0].tolist() == [0, 0]
    assert step.mixing[:, 0].tolist() == [[1.0] + [0.0] * 16] * 2
    for image in range(2):
        for row in step.mixing[image]:
            members = row.nonzero()[:, 0]
            expected = sizes[image, members] / sizes[image, members].sum()
            torch.testing.assert_close(row[members], expected)
