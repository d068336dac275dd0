from dataclasses import replace

import numpy as np
import pytest
import torch

from foveate.core.arrangement import Grid
from foveate.core.compression import Block
from foveate.core.errors import BudgetError, LayerError
from foveate.functional.redundancy import least_of_windows
from foveate.reductions import Bipartite, FilterAndMerge, FilterAndMergeAsPublished, InformationFlow


def block(layer=0, feature_layer=4, keep=5, patches=16, batch=2, has_cls=True, real=None):
    generator = torch.Generator().manual_seed(layer)
    query, key, value = torch.randn(3, batch, 4, patches + has_cls, 6, generator=generator)
    real = torch.ones(batch, patches + has_cls, dtype=torch.bool) if real is None else real
    return Block(layer, feature_layer, keep, query, key, value, 6**-0.5, real, real.long(), has_cls, Grid(1, patches))


@pytest.mark.parametrize(
    "reduction", [Bipartite(), FilterAndMerge(), FilterAndMergeAsPublished(), InformationFlow()], ids=repr
)
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
                  real[1:, :10].long(), True, ragged.grid)  # fmt: skip
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
    given = Block(4, 4, 12, given.query, given.key, given.value, 1.0, given.real, sizes, True, given.grid)
    step, state = Bipartite().reduce(given, None)
    assert state is None
    assert step.origin[:, 0].tolist() == [0, 0]
    assert step.mixing[:, 0].tolist() == [[1.0] + [0.0] * 16] * 2
    for image in range(2):
        for row in step.mixing[image]:
            members = row.nonzero()[:, 0]
            expected = sizes[image, members] / sizes[image, members].sum()
            torch.testing.assert_close(row[members], expected)


def naive_step(given, image, patch, merges):
    """One block of FiCoCo-V by loops: merged patches, remaining ones, and the weights of each merged one."""
    query, key = given.query[image].double().numpy(), given.key[image].double().numpy()
    logits = np.mean([q @ k.T for q, k in zip(query, key, strict=True)], 0) * given.scaling
    first, others = logits[0, 1:], logits[1:, 1:].mean(1)
    values = 0.35 * first / np.linalg.norm(first) - 0.65 * others / np.linalg.norm(others)
    lowered, columns = values.copy(), given.grid.columns
    for window in {(p // columns // 2, p % columns // 2) for p in patch}:
        inside = [i for i, p in enumerate(patch) if (p // columns // 2, p % columns // 2) == window]
        least = min(inside, key=lambda i: values[i])
        lowered[least] *= 0.5 if values[least] > 0 else 2
    order = np.argsort(lowered)
    merged, left = order[:merges], sorted(order[merges:])
    weights = {}
    for i in merged:
        row = logits[i + 1, [j + 1 for j in left]]
        targets = [j for j, logit in enumerate(row) if logit > np.quantile(row, 0.998)]
        share = np.exp(row[targets]) / np.exp(row[targets]).sum()
        weights[i] = dict(zip(targets, share, strict=True))
    return left, weights


def test_filter_and_merge_equals_a_naive_version_over_two_blocks():
    state, patches, grid = None, [list(range(48))] * 2, Grid(6, 8)
    for layer, merges in ((3, 14), (4, 14)):
        tokens = len(patches[0])
        given = replace(block(layer, keep=20, patches=tokens), grid=grid)
        step, state = FilterAndMerge(3).reduce(given, state)
        features = torch.randn(2, tokens + 1, 5, dtype=torch.double)
        made = step.apply(features)
        for image in range(2):
            left, weights = naive_step(given, image, patches[image], merges)
            rows = features[image].numpy()
            sums = np.stack([rows[0], *(rows[j + 1] for j in left)])
            counts = np.ones(len(left) + 1)
            for i, shares in weights.items():
                for j, share in shares.items():
                    sums[j + 1] += share * rows[i + 1]
                    counts[j + 1] += share
            assert step.origin[image].tolist() == [0, *(j + 1 for j in left)]
            np.testing.assert_allclose(made[image], sums / counts[:, None], rtol=1e-5, atol=1e-6)
            patches = [*patches[:image], [patches[image][j] for j in left], *patches[image + 1 :]]
            assert state[image].tolist() == patches[image]


@pytest.mark.parametrize("keep", (1, 20, 47, 48))
def test_filter_and_merge_ends_with_exactly_the_budget(keep):
    state, tokens, merged = None, 48, []
    for layer in range(7):
        step, state = FilterAndMerge(3).reduce(replace(block(layer, 6, keep, tokens), grid=Grid(6, 8)), state)
        merged.append(tokens + 1 - int(step.count[0]))
        tokens -= merged[-1]
    assert tokens == keep
    assert merged[:3] == [0, 0, 0]
    assert max(merged[3:]) - min(merged[3:]) <= 1


def test_filter_and_merge_needs_a_block_that_merges():
    with pytest.raises(LayerError, match="start=5: this tower's features are written by layer 4"):
        FilterAndMerge(5).reduce(block(), None)


def test_the_published_version_refuses_to_merge_more_than_half():
    with pytest.raises(BudgetError, match="keep=3: block 4 would merge 13 of 17 tokens"):
        FilterAndMergeAsPublished(4).reduce(block(4, keep=3), None)


def test_the_least_of_each_window_is_marked_once():
    values = torch.tensor([[[3.0, 3, 5, 1, 0], [3, 9, 1, 8, 0], [torch.inf] * 5, [torch.inf, torch.inf, 2, 3, 0]]])
    expected = [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert least_of_windows(values.flatten(1), Grid(4, 5)).unflatten(1, (4, 5))[0].int().tolist() == expected
