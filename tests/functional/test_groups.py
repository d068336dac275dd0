"""Principal directions, suppression, quotas and the choice by group, against numpy, stock torch and loops."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from foveate.core.trace import PADDING
from foveate.functional.matching import cosine
from foveate.functional.principal import principal_loadings
from foveate.functional.suppression import chosen_by_group, group_quotas, survivors


def random_features(batch: int, patches: int, dim: int) -> torch.Tensor:
    return torch.randn(batch, patches, dim, generator=torch.Generator().manual_seed(patches + dim)).double()


@pytest.mark.parametrize(("patches", "dim"), [(20, 6), (6, 20), (12, 12)])
def test_exact_loadings_are_the_right_singular_vectors_of_centred_channels(patches, dim):
    features = random_features(3, patches, dim)
    found = principal_loadings(features, 4).abs()
    for image, rows in enumerate(features.numpy()):
        samples = rows.T - rows.T.mean(0)
        _, _, right = np.linalg.svd(samples)
        np.testing.assert_allclose(found[image], np.abs(right[:4].T), atol=1e-9)


@pytest.mark.parametrize(("patches", "dim"), [(20, 9), (9, 20)])
def test_randomised_loadings_are_those_of_stock_torch_with_the_same_gaussian_matrix(patches, dim, monkeypatch):
    features = random_features(2, patches, dim)
    found = principal_loadings(features, 4, seed=7).abs()
    drawn = np.random.default_rng(7).standard_normal((min(patches, dim), 4))
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.from_numpy(drawn).float().double().reshape(shape))
    for image in range(2):
        _, _, right = torch.pca_lowrank(features[image].T, 4)
        torch.testing.assert_close(found[image], right.abs())


@pytest.mark.parametrize("seed", [None, 0])
def test_directions_without_variance_have_no_loadings(seed):
    features = torch.outer(torch.arange(1.0, 9), torch.tensor([1.0, -1, 2, 0, 0]))[None]
    found = principal_loadings(features, 5, seed).abs()
    assert (found[..., 1:] == 0).all()
    np.testing.assert_allclose(found[0, :, 0], np.arange(1, 9) / np.linalg.norm(np.arange(1, 9)))


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.3, 0.99])
def test_suppression_equals_a_loop_over_falling_scores(threshold):
    generator = torch.Generator().manual_seed(3)
    features, scores = random_features(4, 40, 3), torch.rand(4, 40, generator=generator)
    group = torch.randint(5, (4, 40), generator=generator)
    scores[0, ::4], scores[1] = -torch.inf, 0.5
    similarity = cosine(features, features)
    found = survivors(similarity, scores, group, torch.full((4,), threshold).double())
    for image in range(4):
        left = [p for p in np.argsort(-scores[image].numpy(), kind="stable") if scores[image, p] > -torch.inf]
        alive, table = [], similarity[image]
        while left:
            alive.append(best := left[0])
            alike = [p for p in left if group[image, p] == group[image, best] and table[best, p] > threshold]
            left = [p for p in left if p != best and p not in alike]
        assert found[image].nonzero()[:, 0].tolist() == sorted(alive)


def test_similar_patches_in_a_chain_suppress_only_their_next():
    similarity = torch.eye(4).double()[None].clone()
    for one in range(3):
        similarity[0, one, one + 1] = similarity[0, one + 1, one] = 0.9
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    alive = survivors(similarity, scores, torch.zeros(1, 4, dtype=torch.long), torch.tensor([0.5]).double())
    assert alive.tolist() == [[True, False, True, False]]


def quotas_by_loops(sizes, surviving, keep, total):
    """The formula group by group, with exact fractions of float32 totals."""
    least = [min(1, size) for size in sizes]
    most = [min(5 * ((total + 63) // 64), size, alive) for size, alive in zip(sizes, surviving, strict=True)]
    while sum(most) < min(total, sum(sizes)):
        most = [min(limit + 1, size) for limit, size in zip(most, sizes, strict=True)]
    rest, before, running, given = max(keep - sum(least), 0), 0, np.float64(0), []
    for alive, low, limit in zip(surviving, least, most, strict=True):
        running += np.float64(np.float32(alive) / np.float32(sum(surviving)))
        upto = round(Fraction(float(np.float32(running) * np.float32(rest))))
        given.append(min(upto - before + low, limit))
        before = upto
    missing = keep - sum(given)
    for group in sorted(range(len(sizes)), key=lambda g: -surviving[g]):
        added = max(0, min(most[group] - given[group], missing))
        given[group], missing = given[group] + added, missing - added
    return given


@pytest.mark.parametrize(("keep", "total"), [(63, 64), (31, 32), (16, 16), (127, 128)])
def test_quotas_equal_the_formula_group_by_group(keep, total):
    generator = torch.Generator().manual_seed(keep)
    sizes = torch.randint(0, 24, (40, total // 4), generator=generator)
    sizes[:, 0] += (total - sizes.sum(1)).clamp(min=0)
    surviving = (sizes * torch.rand(sizes.shape, generator=generator)).ceil().long().minimum(sizes)
    surviving[:5] = sizes[:5]
    found = group_quotas(sizes, surviving, keep, total)
    for row, alive, quota in zip(sizes.tolist(), surviving.tolist(), found.tolist(), strict=True):
        assert quota == quotas_by_loops(row, alive, keep, total)
        assert sum(quota) == keep


def test_halves_of_a_quota_are_rounded_to_even():
    sizes = torch.tensor([[1, 1, 1, 1]])
    # each share is a quarter and 2 are left to split, so the running totals are 0.5, 1, 1.5 and 2
    assert quotas_by_loops([4, 4, 4, 4], [4, 4, 4, 4], 6, 6) == [1, 2, 2, 1]
    assert group_quotas(4 * sizes, 4 * sizes, 6, 6).tolist() == [[1, 2, 2, 1]]


def test_the_choice_by_group_takes_survivors_first_and_then_suppressed_ones():
    scores = torch.tensor([[0.1, 0.9, 0.8, 0.7, 0.6, 0.5], [0.1, 0.2, 0.3, 0.4, -torch.inf, 0.6]])
    group = torch.tensor([[1, 1, 0, 1, 0, 0]]).expand(2, -1)
    alive = torch.tensor([[True, False, True, True, False, True]]).expand(2, -1)
    kept = chosen_by_group(scores, alive, group, torch.tensor([[3, 2], [3, 1]]), 5)
    assert kept.tolist() == [[2, 5, 4, 3, 0], [5, 2, 3, PADDING, PADDING]]
