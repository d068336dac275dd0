from functools import partial
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import jensenshannon

from foveate.bias import metrics as bias
from foveate.bias.metrics import (
    centroid_shift,
    effective_tokens,
    entropy,
    jensen_shannon,
    kendall,
    kendall_matrix,
    last_rows_share,
    positional_null,
    raster_correlation,
    retained_mass,
    row_correlation,
    row_null,
    sink_share,
    spearman,
    top_overlap,
)
from foveate.core.arrangement import Grid
from foveate.core.errors import BudgetError
from foveate.functional.outliers import outliers, outlying
from foveate.functional.ranking import marked
from foveate.metrics.evidence import evidence_precision, evidence_recall

GRID = Grid(5, 7)
LEADING = [(), (4,), (2, 3), (2, 1, 3)]


def random_rows(*leading, seed=0, patches=GRID.patches):
    """Returns attention-like rows: float32, at least 0, with few different values so that there are ties and zeros."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 12, (*leading, patches)) / np.float32(16))


def by_row(oracle, *sides):
    """Returns the oracle's value of each row, in an array of the leading shape."""
    leading = sides[0].shape[:-1]
    values = [oracle(*(np.float64(side[index]) for side in sides)) for index in np.ndindex(*leading)]
    return np.reshape(values, leading)


def overlap_of_sets(a, b, keep):
    best = [sorted(range(len(side)), key=lambda patch: (-side[patch], patch))[:keep] for side in (a, b)]
    return len(set(best[0]) & set(best[1])) / keep


PAIRS = {
    "top overlap": (partial(top_overlap, keep=9), partial(overlap_of_sets, keep=9)),
    "spearman": (spearman, lambda a, b: stats.spearmanr(a, b)[0]),
    "kendall": (kendall, lambda a, b: stats.kendalltau(a, b)[0]),
    "jensen-shannon": (jensen_shannon, lambda a, b: jensenshannon(a, b, base=2) ** 2),
}


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_agreement_of_two_rows_equals_scipy_or_sets_row_by_row(name, leading):
    function, oracle = PAIRS[name]
    a, b = random_rows(*leading), random_rows(*leading, seed=1)
    found = function(a, b)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, by_row(oracle, a.numpy(), b.numpy()), rtol=1e-12)
    torch.testing.assert_close(found, function(b, a), rtol=0, atol=0)


def of_grid(oracle):
    """Returns an oracle that receives the shares of mass as an image."""
    return lambda row: oracle(row.reshape(GRID.rows, GRID.columns) / row.sum())


def centroid(image, axis):
    """Returns the offset of the centroid from the centre if the grid's edges are at 0 and 1."""
    centres = (np.indices(image.shape)[axis] + 0.5) / image.shape[axis]
    return np.average(centres, weights=image) - 0.5


ROW_INDEX = np.repeat(np.arange(GRID.rows), GRID.columns)
SINGLES = {
    "entropy": (entropy, lambda row: stats.entropy(row, base=2)),
    "effective tokens": (effective_tokens, lambda row: np.exp(stats.entropy(row))),
    "raster": (raster_correlation, lambda row: stats.spearmanr(row, np.arange(len(row)))[0]),
    "grid row": (partial(row_correlation, grid=GRID), lambda row: stats.spearmanr(row, ROW_INDEX)[0]),
    "down": (lambda row: centroid_shift(row, GRID)[0], of_grid(partial(centroid, axis=0))),
    "right": (lambda row: centroid_shift(row, GRID)[1], of_grid(partial(centroid, axis=1))),
    "last rows": (partial(last_rows_share, grid=GRID, rows=2), of_grid(lambda image: image[-2:].sum())),
}


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("name", SINGLES)
def test_numbers_of_one_row_equal_scipy_or_numpy_row_by_row(name, leading):
    function, oracle = SINGLES[name]
    rows = random_rows(*leading)
    found = function(rows)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, by_row(oracle, rows.numpy()), rtol=1e-12, atol=1e-14)


def test_half_precision_scores_give_the_values_of_double_precision():
    rows = random_rows(3, patches=600).bfloat16()  # which represents no odd number above 256
    grid = Grid(300, 2)
    for function in (
        raster_correlation,
        partial(row_correlation, grid=grid),
        lambda row: torch.stack(centroid_shift(row, grid)),
        partial(last_rows_share, grid=grid, rows=7),
        effective_tokens,
    ):
        torch.testing.assert_close(function(rows), function(rows.double()), rtol=0, atol=0)


MASS = {name: SINGLES[name][0] for name in ("entropy", "effective tokens", "down", "right", "last rows")}


@pytest.mark.parametrize("name", MASS)
def test_mass_is_relative_and_nan_where_there_is_none(name):
    rows = random_rows(3)
    torch.testing.assert_close(MASS[name](rows), MASS[name](rows * 8))
    assert MASS[name](torch.zeros(2, GRID.patches)).isnan().all()
    with pytest.raises(ValueError, match=r"scores down to -0\.25 are not a mass"):
        MASS[name](rows - 0.25)


@pytest.mark.parametrize("correlation", [spearman, kendall])
def test_correlations_are_nan_where_a_side_is_constant_or_unknown(correlation):
    a, b = random_rows(4), random_rows(4, seed=1)
    a[0] = 0.1  # whose squared deviations from a rounded mean are not 0
    b[1] = 0.0
    a[2, 5] = torch.nan
    assert correlation(a, b).isnan().tolist() == [True, True, True, False]


@pytest.mark.parametrize("correlation", [spearman, kendall])
def test_correlations_of_rising_maps_are_one_and_of_falling_ones_minus_one(correlation):
    a = random_rows(3)
    assert correlation(a, a.exp()).tolist() == [1, 1, 1]
    assert correlation(a, -a).tolist() == [-1, -1, -1]
    lost = a.masked_fill(a == 0, -torch.inf)  # a rank like any other
    torch.testing.assert_close(correlation(lost, a), correlation(a, a))


@pytest.mark.parametrize("limit", [1, 2 * GRID.patches**2, 2**30])
def test_kendall_does_not_depend_on_how_many_rows_fit_at_once(limit, monkeypatch):
    a, b = random_rows(5), random_rows(5, seed=1)
    expected = kendall(a, b)
    monkeypatch.setattr(bias, "_CHUNK", limit)
    assert torch.equal(kendall(a, b), expected)


def test_sets_shifted_by_some_patches_overlap_in_the_others():
    a = torch.zeros(12)
    a[:6] = 1
    for shift in range(7):
        assert top_overlap(a, a.roll(shift), keep=6).item() == pytest.approx(1 - shift / 6)


def test_the_lower_index_wins_ties_and_scores_of_minus_infinity_are_never_selected():
    constant, falling, rising = torch.zeros(10), -torch.arange(10.0), torch.arange(10.0)
    assert top_overlap(constant, falling, keep=3).item() == 1
    assert top_overlap(constant, rising, keep=3).item() == 0
    few = rising.masked_fill(rising < 8, -torch.inf)
    assert top_overlap(few, few, keep=4).item() == 1
    assert top_overlap(few, rising, keep=4).item() == 2 / 4


@pytest.mark.parametrize("keep", [0, 11])
def test_overlap_of_more_patches_than_there_are_is_refused(keep):
    with pytest.raises(BudgetError, match=r"expected 1\.\.10 patches"):
        top_overlap(torch.zeros(10), torch.zeros(10), keep=keep)


def test_divergence_is_zero_for_equal_shares_and_one_without_a_common_patch():
    a = random_rows(50)
    assert jensen_shannon(a, a * 4).tolist() == [0] * 50
    left, right = a.clone(), a.clone()
    left[:, ::2] = 0
    right[:, 1::2] = 0
    np.testing.assert_allclose(jensen_shannon(left, right), 1, rtol=1e-12)
    assert jensen_shannon(a, torch.zeros_like(a)).isnan().all()


def test_half_a_uniform_row_retains_half_its_mass():
    stays = marked(torch.tensor([[0, 1, 2, 3, 4], [5, 6, -1, -1, -1]]), 10)
    np.testing.assert_allclose(retained_mass(torch.full((2, 10), 0.01), stays), [0.5, 0.2])


def test_retained_mass_equals_a_masked_average():
    rows, stays = random_rows(2, 3), random_rows(2, 3, seed=1) > 0.4
    expected = by_row(lambda row, kept: np.average(kept, weights=row), rows.numpy(), stays.numpy())
    np.testing.assert_allclose(retained_mass(rows, stays), expected)


@pytest.mark.parametrize("count", [1, 2, 8, 35])
def test_effective_tokens_of_equally_attended_patches_are_their_number(count):
    row = torch.zeros(GRID.patches)
    row[torch.from_numpy(np.random.default_rng(count).permutation(GRID.patches)[:count])] = 0.3
    assert effective_tokens(row).item() == pytest.approx(count)
    assert entropy(row).item() == pytest.approx(np.log2(count))


def test_mass_that_rises_with_the_grid_row_correlates_perfectly_with_it():
    row = torch.from_numpy(ROW_INDEX + 1.0)
    assert row_correlation(row, GRID).item() == 1
    assert row_correlation(row.flip(0), GRID).item() == -1
    assert raster_correlation(torch.arange(35.0)).item() == 1
    columns = torch.arange(7.0).repeat(5)  # the same in every row
    assert row_correlation(columns, GRID).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (4, 6), (2, 3), (1, 5)])
def test_a_point_mass_shifts_the_centroid_to_its_patch(down, right):
    image = torch.zeros(5, 7)
    image[down, right] = 0.2
    found = centroid_shift(image.flatten(), GRID)
    np.testing.assert_allclose(found, [(down - 2) / 5, (right - 3) / 7], atol=1e-15)


def test_the_share_of_the_last_rows_is_the_mass_that_was_placed_there():
    image = torch.full((5, 7), 0.25 / 21)
    image[-2:] = 0.75 / 14
    share = partial(last_rows_share, image.flatten(), GRID)
    np.testing.assert_allclose([share(rows) for rows in (0, 2, 5)], [0, 0.75, 1])
    assert last_rows_share(torch.ones(35), GRID, 2).item() == pytest.approx(2 / 5)


def test_half_of_the_mass_on_two_planted_sinks_is_their_share():
    norms = torch.from_numpy(np.random.default_rng(0).uniform(9, 11, (2, 3, 35)))  # a uniform sample has no outliers
    rows = torch.full((2, 3, 35), 0.5 / 33)
    assert sink_share(rows, norms).count_nonzero() == 0
    norms[..., [4, 30]] = 60
    rows[..., [4, 30]] = 0.25
    np.testing.assert_allclose(sink_share(rows, norms), 0.5, rtol=1e-6)
    assert sink_share(rows, norms, factor=100.0).count_nonzero() == 0


def test_sinks_lie_above_the_fence_of_their_own_image():
    rows, norms = random_rows(6, 2), torch.from_numpy(np.random.default_rng(1).lognormal(size=(6, 2, 35)))
    lower, upper = np.percentile(norms.numpy(), [25, 75], axis=-1, keepdims=True)
    high = norms.numpy() > upper + 1.5 * (upper - lower)
    assert high.any() and not high.all()
    expected = (rows.numpy() * high).sum(-1) / rows.numpy().sum(-1)
    np.testing.assert_allclose(sink_share(rows, norms), expected, rtol=1e-6)
    assert torch.equal(outlying(norms, 1.5).sum(-1)[:, 0], outliers(norms[:, 0], 1.5))


def test_p_of_one_image_equals_scipy_over_all_permutations():
    row = torch.tensor([[1.0, 3.0, 2.0, 2.0, 5.0, 4.0]])
    ranks = stats.rankdata(row[0])

    def rising(ranks, axis):  # equivalent to Spearman's coefficient, because permutations keep the ranks' variance
        return ranks @ np.arange(6)

    exact = stats.permutation_test((ranks,), rising, permutation_type="pairings", vectorized=True, n_resamples=np.inf)
    assert 0.05 < exact.pvalue < 0.2
    assert positional_null(raster_correlation, row, 20_000, seed=0) == pytest.approx(exact.pvalue, abs=0.01)


def test_p_of_two_images_equals_all_pairs_of_permutations_and_leaves_out_an_unknown_one():
    grid = Grid(2, 2)
    rows = torch.tensor([[1.0, 0.0, 5.0, 2.0], [2.0, 1.0, 1.0, 4.0]])
    last = [[sum(order[2:]) / sum(order) for order in permutations(row.tolist())] for row in rows]
    null = np.array([sum(pair) / 2 for pair in product(*last)])
    mean = null[0]  # the first permutation is the observed order
    exact = 2 * min((null >= mean - 1e-12).mean(), (null <= mean + 1e-12).mean())
    assert 0.1 < exact < 0.5
    statistic = partial(last_rows_share, grid=grid, rows=1)
    assert positional_null(statistic, rows, 20_000, seed=1) == pytest.approx(exact, abs=0.02)
    with_empty = torch.cat([rows, torch.zeros(1, 4)])
    assert positional_null(statistic, with_empty, 20_000, seed=1) == pytest.approx(exact, abs=0.02)
    assert np.isnan(positional_null(statistic, torch.zeros(1, 4), 9, seed=0))


STATISTICS = {name: SINGLES[name][0] for name in ("raster", "grid row", "down", "right", "last rows")}


@pytest.mark.parametrize("name", STATISTICS)
def test_p_is_uniform_without_a_bias_over_position(name):
    values = [positional_null(STATISTICS[name], random_rows(3, seed=i), 99, seed=i) for i in range(60)]
    assert stats.kstest(values, "uniform").pvalue > 0.01


@pytest.mark.parametrize("name", STATISTICS)
def test_p_is_minimal_for_a_constructed_bias(name):
    corner = torch.from_numpy(np.add.outer(np.arange(5), np.arange(7)).flatten() / 2.0)
    rows = random_rows(20) + 0.2 * corner.float()
    for biased in (rows, rows.flip(1)):
        assert positional_null(STATISTICS[name], biased, 199, seed=0) == pytest.approx(2 / 200)


def test_smooth_maps_without_bias_have_a_small_p_by_permutation_but_not_by_a_test_over_images():
    def down(rows):
        return centroid_shift(rows, Grid(10, 10))[0]

    noise = np.random.default_rng(0).random((40, 10, 10, 10))  # 40 samples of 10 images
    maps = torch.from_numpy(gaussian_filter(noise, (0, 0, 1, 1), mode="wrap")).flatten(2)
    permuted = np.array([positional_null(down, sample, 99, seed=0) for sample in maps])
    over_images = stats.ttest_1samp(down(maps), 0, axis=1).pvalue
    assert (permuted < 0.05).mean() > 0.3
    assert stats.kstest(over_images, "uniform").pvalue > 0.01


def test_p_is_one_where_every_order_gives_the_same_and_does_not_depend_on_chunks(monkeypatch):
    statistic = partial(last_rows_share, grid=GRID, rows=2)
    assert positional_null(statistic, torch.full((3, 35), 0.1), 99, seed=0) == 1
    rows = random_rows(3)
    expected = positional_null(statistic, rows, 99, seed=5)
    monkeypatch.setattr(bias, "_PERMUTED_CHUNK", 10 * rows.numel())
    assert positional_null(statistic, rows, 99, seed=5) == expected


@pytest.mark.parametrize("lean", [0.0, 0.02, -0.02, 0.5], ids=str)
def test_row_null_equals_positional_null_of_the_row_correlation(lean):
    rows = random_rows(9) + 1 + lean * torch.from_numpy(ROW_INDEX).float()
    rows[4] = 0.25  # constant: undefined
    expected = positional_null(partial(row_correlation, grid=GRID), rows, 199, seed=3)
    assert row_null(rows, GRID, 199, seed=3) == expected
    assert (expected == 2 / 200) == (lean == 0.5)
    assert np.isnan(row_null(rows[4:5], GRID, 9, seed=0))


def test_precision_equals_sets_by_hand():
    share = torch.zeros(4, 2, 10)
    share[0, 0, [1, 2, 3]] = 0.5
    share[0, 1, [3, 4]] = 0.5
    share[0, 1, 9] = 0.01  # below SHOWN
    share[1, 0, 7] = 1.0
    share[3] = 1.0
    stays = marked(torch.tensor([[1, 2, 9], [0, 1, 2], [0, 1, -1], [-1, -1, -1]]), 10)
    np.testing.assert_allclose(evidence_precision(stays, share), [2 / 3, 0.0, np.nan, np.nan])


def test_precision_and_recall_count_the_same_patches():
    rng = np.random.default_rng(0)
    share = torch.from_numpy(rng.random((20, 2, 30)).astype(np.float32) ** 8)
    stays = torch.from_numpy(rng.random((20, 30)) < 0.3)
    needed = (share >= 1 / 16).any(1).sum(1)
    both = evidence_precision(stays, share) * stays.sum(1)
    torch.testing.assert_close(both, evidence_recall(stays, share) * needed)


def test_the_matrix_of_kendall_equals_scipy_pair_by_pair():
    maps = torch.randint(0, 6, (3, 4, 30), generator=torch.Generator().manual_seed(0)).float()
    maps[0, 1] = 2  # constant: undefined
    found = kendall_matrix(maps)
    for image in range(3):
        for a in range(4):
            for b in range(4):
                expected = stats.kendalltau(maps[image, a], maps[image, b])[0]
                np.testing.assert_allclose(found[image, a, b], expected, atol=1e-12)
