"""Against searches by explicit loops; the orders of the authors' code are in tests/selectors/test_published_choices."""

import numpy as np
import pytest
import torch

from foveate.core.arrangement import Grid
from foveate.core.trace import PADDING
from foveate.functional import diversity
from foveate.functional.diversity import coverage, determinantal, max_min, thinned
from foveate.functional.matching import cosine
from foveate.functional.outliers import outliers
from foveate.functional.regions import group_means, proportional, rank_within, rectangles, runs, with_neighbours

COUNTS = [20, 13, 1, 0]


def similarities(batch: int = 4, patches: int = 20, dim: int = 6) -> torch.Tensor:
    features = torch.randn(batch, patches, dim, generator=torch.Generator().manual_seed(0)).double()
    return cosine(features, features)


def free(patches: int = 20) -> torch.Tensor:
    return torch.arange(patches) < torch.tensor(COUNTS)[:, None]


@pytest.fixture(params=["by default", "small"])
def pools(request, monkeypatch):
    """With pools as they are, which hold all 20 patches, and so small that others become better than those inside."""
    if request.param == "small":
        for name, size in {"_POOL": 3, "_RENEWED": 2, "_ROWS": 7}.items():
            monkeypatch.setattr(diversity, name, size)


def padded(chosen: list[int], width: int) -> list[int]:
    return chosen + [PADDING] * (width - len(chosen))


@pytest.mark.parametrize("keep", [1, 2, 9, 20, 30])
def test_max_min_equals_a_search_by_loops(pools, keep):
    similarity = similarities()
    order = max_min(similarity, free(), keep)
    assert order.shape[1] == min(keep, 20)
    for row, table, count in zip(order.tolist(), 1 - similarity.numpy(), COUNTS, strict=True):
        chosen: list[int] = []
        while len(chosen) < min(keep, count):
            rest = [patch for patch in range(count) if patch not in chosen]
            seen = chosen or range(count)

            def gap(patch, table=table, seen=seen):
                return min((table[patch, other] for other in seen if other != patch), default=0)

            chosen.append(max(rest, key=gap))
        assert row == padded(chosen, order.shape[1])


@pytest.mark.parametrize("keep", [1, 4, 20, 30])
def test_greedy_determinants_of_a_kernel_of_full_rank_equal_explicit_ones(pools, keep):
    kernel = similarities() + 0.3 * torch.eye(20).double()
    order = determinantal(kernel, free(), keep)
    for row, table, count in zip(order.tolist(), kernel.numpy(), COUNTS, strict=True):
        chosen: list[int] = []
        while len(chosen) < min(keep, count):
            rest = [patch for patch in range(count) if patch not in chosen]
            chosen.append(max(rest, key=lambda p: np.linalg.det(table[np.ix_([*chosen, p], [*chosen, p])])))
        assert row == padded(chosen, order.shape[1])


def test_a_kernel_of_zeros_and_of_duplicates_still_gives_different_patches(pools):
    everything = torch.ones(1, 6, dtype=torch.bool)
    assert determinantal(torch.zeros(1, 6, 6), everything, 4).tolist() == [[0, 1, 2, 3]]
    quality = torch.tensor([0.1, 0.6, 0.0, 0.9, 0.5, 0.7]).double()
    assert determinantal((quality[:, None] * quality)[None], everything, 6).tolist() == [[3, 5, 1, 4, 0, 2]]


def test_a_kernel_whose_rank_is_spent_within_a_pool_goes_on_by_its_diagonal(pools):
    features = torch.randn(2, 20, 5, generator=torch.Generator().manual_seed(2)).double()
    kernel = features @ features.mT
    order = determinantal(kernel, torch.ones(2, 20, dtype=torch.bool), 20)
    for row, own in zip(order.tolist(), kernel.diagonal(dim1=1, dim2=2).tolist(), strict=True):
        assert sorted(row) == list(range(20))
        assert row[5:] == sorted(row[5:], key=lambda patch, own=own: -own[patch])


def test_equal_patches_go_to_the_lower_index(pools):
    features = similarities(1, 5)[0].repeat_interleave(4, 0)
    twins = cosine(features[None], features[None]).round(decimals=12)
    everybody, one = torch.ones(1, 20, dtype=torch.bool), torch.ones(1, 20).double()
    for chosen in (max_min(twins, everybody, 5), coverage(twins, one, 0 * one, everybody, 5)):
        assert all(patch % 4 == 0 for patch in chosen[0].tolist()[:2])
    assert all(patch % 4 == 0 for patch in determinantal(twins, everybody, 5)[0].tolist())


@pytest.mark.parametrize("keep", [1, 9, 30])
def test_coverage_equals_a_search_by_loops(pools, keep):
    generator = torch.Generator().manual_seed(3)
    cover = torch.randn(4, 11, 20, generator=generator)
    weight, bonus = torch.rand(2, 4, 20, generator=generator)
    order = coverage(cover, weight, bonus, free(), keep)
    for i, (row, count) in enumerate(zip(order.tolist(), COUNTS, strict=True)):
        chosen: list[int] = []
        while len(chosen) < min(keep, count):
            rest = [patch for patch in range(count) if patch not in chosen]

            def gain(patch, i=i, chosen=chosen):
                before = cover[i, :, chosen].amax(1).clamp(min=0) if chosen else torch.zeros(11)
                added = torch.maximum(before, cover[i, :, patch]) - before
                return float(added.sum() * weight[i, patch] + bonus[i, patch])

            chosen.append(max(rest, key=gain))
        assert row == padded(chosen, order.shape[1])


@pytest.mark.parametrize("step", [1, 3, 8])
@pytest.mark.parametrize("keep", [1, 2, 6, 7, 20])
def test_thinning_equals_lists_and_loops_for_any_length(keep, step):
    similarity = similarities()
    orders = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(i)) for i in range(4)])
    queue = orders.masked_fill(~free(), PADDING)
    left = thinned(similarity, queue, keep, step)
    for row, start, table in zip(left.tolist(), queue.tolist(), similarity, strict=True):
        line = [patch for patch in start if patch != PADDING]
        while len(line) > keep:
            even, odd = line[::2], line[1::2]
            even.sort(key=lambda patch: -max(float(table[patch, other]) for other in odd))
            line = even[min(step, len(line) - keep) :] + odd
        assert sorted(patch for patch in row if patch != PADDING) == sorted(line)


def test_choices_do_not_depend_on_the_rest_of_the_batch(pools):
    similarity = similarities()
    for i, count in enumerate(COUNTS[:3]):
        alone = similarity[i : i + 1, :count, :count]
        everything = torch.ones(1, count, dtype=torch.bool)
        assert max_min(alone, everything, 7).tolist()[0] == max_min(similarity, free(), 7)[i, : min(count, 7)].tolist()
        few = determinantal(alone, everything, 7).tolist()[0]
        assert few == determinantal(similarity, free(), 7)[i, : min(count, 7)].tolist()


def test_ranks_within_groups_equal_sorting_each_group():
    generator = np.random.default_rng(0)
    scores, group = generator.integers(0, 4, (30, 25)).astype(np.float32), generator.integers(-1, 5, (30, 25))
    ranks = rank_within(torch.from_numpy(scores), torch.from_numpy(group))
    for row, values, numbers in zip(ranks.tolist(), scores, group, strict=True):
        for number in set(numbers.tolist()):
            members = [patch for patch in range(25) if numbers[patch] == number]
            members.sort(key=lambda patch, values=values: -values[patch])
            assert [row[patch] for patch in members] == list(range(len(members)))


def test_group_means_leave_out_what_is_no_member():
    values = torch.tensor([[1.0, 2.0, 4.0, torch.inf, 8.0]])
    group, members = torch.tensor([[0, 2, 2, 0, 2]]), torch.tensor([[True, True, True, False, True]])
    assert group_means(values, group, members, 9).tolist() == [[1.0, 0.0, pytest.approx(14 / 3)]]


def test_proportional_parts_are_rounded_down_and_the_rest_goes_to_the_greatest():
    assert proportional(torch.tensor([[0.5, 0.3, 0.2]]), 10).tolist() == [[5, 3, 2]]
    assert proportional(torch.tensor([[3.0, 1.0, 1.0, 2.0]]), 9).tolist() == [[4, 1, 1, 3]]
    assert proportional(torch.zeros(1, 4), 6).tolist() == [[2, 2, 1, 1]]
    assert proportional(torch.tensor([[0.0, 1.0]]), 7).tolist() == [[0, 7]]


def test_rectangles_and_runs_cut_an_image_as_evenly_as_whole_patches_allow():
    places = torch.arange(48)[None]
    grid = Grid(6, 8)
    for rows, columns in ((1, 1), (2, 4), (4, 3), (6, 8)):
        sizes = torch.bincount(rectangles(places, (grid,), rows, columns)[0], minlength=rows * columns)
        assert len(sizes) == rows * columns
        assert sizes.max() <= -(-6 // rows) * -(-8 // columns)
        assert sizes.min() >= (6 // rows) * (8 // columns)
    for count in (1, 5, 16, 48):
        sizes = torch.bincount(runs(places, (grid,), count)[0], minlength=count)
        assert sizes.max() - sizes.min() <= 1
        assert (runs(places, (grid,), count)[0].diff() >= 0).all()


def test_neighbours_wrap_to_the_next_row_and_end_at_the_first_and_last_place():
    places, chosen = torch.arange(32)[None], torch.zeros(1, 32, dtype=torch.bool)
    chosen[0, [2, 16 + 15]] = True
    near = with_neighbours(chosen, places, (Grid(4, 4),) * 2)[0]
    assert near.nonzero().flatten().tolist() == [0, 1, 2, 3, 6, 27, 30, 31]


def test_outliers_equal_numpy_percentiles_and_ignore_what_is_not_there():
    values = torch.randn(9, 40, generator=torch.Generator().manual_seed(0)).exp()
    values[4, 17:] = values[5, :] = -torch.inf
    for row, count in zip(values.numpy(), outliers(values, 0.7).tolist(), strict=True):
        there = row[np.isfinite(row)].astype(float)
        lower, upper = np.percentile(there, [25, 75]) if len(there) else (0, 0)
        assert count == (there > upper + 0.7 * (upper - lower)).sum()
