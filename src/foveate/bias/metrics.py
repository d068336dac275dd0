"""Metrics of score maps: agreement of two maps, concentration, and bias over position and towards sinks.

A row holds the scores of one query for the patches of an image, in raster order. Any axes, such as image, layer and
head, may precede the patch axis; both arguments must have the same ones (`expand` if not), and rows are compared in
pairs. Metrics of ranks accept scores of any sign. Metrics of mass need scores of at least 0, divide them by their sum,
and are NaN where it is 0. Values are float64.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

from foveate.core.arrangement import Grid
from foveate.core.errors import BudgetError
from foveate.functional.outliers import outlying
from foveate.functional.ranking import marked, ranked

_CHUNK = 2**22  # pairs of patches of one step; larger steps would only need more memory
_PERMUTED_CHUNK = 2**18  # patches of one step, which fit into a processor's cache
_ROUNDING = 1e-12  # upper bound of the difference between means of the same values in another order


def top_overlap(
    a: Float[Tensor, "*batch patch"], b: Float[Tensor, "*batch patch"], keep: int
) -> Float[Tensor, "*batch"]:
    """Returns |top(a) ∩ top(b)| / keep, where top selects the `keep` highest scores.

    As in `ranked`, the lower index wins among equal scores, and a score of -inf is never selected; if that leaves fewer
    than `keep`, the denominator is the size of the larger set. Unrelated rows overlap by keep / patches on average.

    Raises:
        BudgetError: There are fewer than `keep` patches, or `keep` is below 1.
    """
    patches = a.shape[-1]
    if not 1 <= keep <= patches:
        raise BudgetError(f"keep={keep}: expected 1..{patches} patches")
    tops = [marked(ranked(scores.reshape(-1, patches), keep), patches) for scores in (a, b)]
    larger = torch.stack(tops).sum(-1).amax(0)
    return ((tops[0] & tops[1]).sum(-1).double() / larger).reshape(a.shape[:-1])


def spearman(a: Float[Tensor, "*batch patch"], b: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """Returns the correlation of ranks, with mean ranks for ties; NaN where a row is constant or contains NaN.

    Source: Spearman 1904, "The proof and measurement of association between two things".
    """
    return _correlated(_centred_ranks(a), _centred_ranks(b))


def kendall(a: Float[Tensor, "*batch patch"], b: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """Returns tau-b: (concordant - discordant) / sqrt(untied in a * untied in b), over all pairs of patches.

    The value is NaN where a row is constant or contains NaN.

    Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    patches = a.shape[-1]
    rows = max(1, _CHUNK // patches**2)  # memory is quadratic in the number of patches
    chunks = zip(a.reshape(-1, patches).split(rows), b.reshape(-1, patches).split(rows), strict=True)
    return torch.cat([_tau(*chunk) for chunk in chunks]).reshape(a.shape[:-1])


def kendall_matrix(maps: Float[Tensor, "*batch map patch"]) -> Float[Tensor, "*batch map map"]:
    """Returns `kendall` of every pair of maps of an image, by one matrix product instead of one pass per pair.

    With s_a(i, j) the sign of a_i - a_j: tau_b(a, b) = <s_a, s_b> / sqrt(<s_a, s_a> <s_b, s_b>).
    """
    count, patches = maps.shape[-2:]
    parts = []
    for few in maps.reshape(-1, count, patches).split(max(1, _CHUNK // (count * patches**2))):
        signs = (few[..., :, None] - few[..., None, :]).sign().flatten(-2).double()
        products = signs @ signs.mT
        untied = products.diagonal(dim1=-2, dim2=-1)
        parts.append(products / (untied[..., :, None] * untied[..., None, :]).sqrt())
    return torch.cat(parts).reshape(*maps.shape[:-1], count)


def jensen_shannon(a: Float[Tensor, "*batch patch"], b: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """Returns the divergence H((p + q) / 2) - (H(p) + H(q)) / 2 in bits: 0 for equal rows, 1 for disjoint rows.

    It is the square of the Jensen-Shannon distance.

    Source: Lin 1991, "Divergence measures based on the Shannon entropy".
    """
    p, q = _shares(a), _shares(b)
    return (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).clamp(0, 1)


def retained_mass(row: Float[Tensor, "*batch patch"], kept: Bool[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """Returns the share of a row's mass over all patches that is on the kept patches."""
    return (_shares(row) * kept).sum(-1)


def entropy(row: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """Returns H(p) = -sum p log2 p in bits, where p are the patches' shares of the row's mass."""
    return torch.special.entr(_shares(row)).sum(-1) / math.log(2)


def effective_tokens(row: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """Returns 2 ** H(p), the number of equally attended patches with the same entropy.

    Source: Hill 1973, "Diversity and evenness" (the number of order 1).
    """
    return entropy(row).exp2()


def raster_correlation(row: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """Returns `spearman` of score and raster index: 1 if scores rise with the index."""
    index = torch.arange(row.shape[-1], device=row.device)
    return _correlated(_centred_ranks(row), _centred_ranks(index))


def row_correlation(row: Float[Tensor, "*batch patch"], grid: Grid) -> Float[Tensor, "*batch"]:
    """Returns `spearman` of score and grid row: positive if scores rise towards the bottom of the image.

    Patches of one grid row have tied ranks, so the value is 1 only for scores with the same ties.

    Source: arXiv 2412.13180v1 (the bias of early layers towards the bottom; the coefficient is ours).
    """
    return _correlated(_centred_ranks(row), _row_ranks(grid).to(row.device))


def centroid_shift(
    row: Float[Tensor, "*batch patch"], grid: Grid
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Returns the offset (down, right) of the centroid of the mass from the centre, in heights and widths of the grid.

    The mass of a patch is at its centre; so the offset of mass in the last of R grid rows alone is 1/2 - 1/(2R) down.
    """
    shares = _shares(row).unflatten(-1, (grid.rows, grid.columns))
    return shares.sum(-1) @ _offsets(grid.rows).to(shares), shares.sum(-2) @ _offsets(grid.columns).to(shares)


def last_rows_share(row: Float[Tensor, "*batch patch"], grid: Grid, rows: int) -> Float[Tensor, "*batch"]:
    """Returns the share of the mass in the last `rows` rows of the grid; rows / grid.rows for uniform mass.

    Source: arXiv 2412.13180v1 (the bias of early layers towards the bottom; the share is ours).
    """
    last = torch.arange(grid.patches, device=row.device) >= (grid.rows - rows) * grid.columns
    return retained_mass(row, last.expand_as(row))


def sink_share(
    row: Float[Tensor, "*batch patch"], norms: Float[Tensor, "*batch patch"], factor: float = 1.5
) -> Float[Tensor, "*batch"]:
    """Returns the share of the mass on sinks: patches whose norm is more than `factor` IQR above the upper quartile.

    This is Tukey's rule within each image, as for scores in `functional.outliers`. The authors use one threshold per
    model, a norm of 150 for DINOv2, which does not transfer to other models. The rule has false positives: 0.3 % of
    normally distributed norms.

    Source: arXiv 2309.16588v2 (patches of high norm); Tukey 1977, "Exploratory data analysis" (the rule).

    Args:
        row: Attention to the patches.
        norms: Norms of the patches' features in the layer whose sinks are measured.
        factor: Multiple of the interquartile range; 3 finds Tukey's "far out" values.
    """
    return retained_mass(row, outlying(norms, factor))


def positional_null(
    statistic: Callable[[Tensor], Tensor], rows: Float[Tensor, "image patch"], permutations: int, seed: int
) -> float:
    """Returns the two-sided p of a statistic's mean over images under random permutations of each image's scores.

    p = 2 min(1 + #{null >= mean}, 1 + #{null <= mean}) / (1 + permutations), at most 1: the observed order counts as a
    permutation, so that p is never 0. Images whose statistic is NaN are left out.

    The null hypothesis is that scores are exchangeable between patches. Smooth maps violate it without any bias over
    position, for example attention to things that are larger than a patch: their mean varies more than that of their
    permutations, and p is far too small for any number of images. (For unbiased noise, blurred by a Gaussian of one
    patch on 24 x 24, p < 0.05 in about half of the cases.) So a large p means that no bias is found, but a small one is
    evidence of bias only together with an interval of the statistic over images.

    Source: Phipson and Smyth 2010, "Permutation p-values should never be zero"; two sides as in scipy.

    Args:
        statistic: Function from "*batch patch" to "*batch", such as `raster_correlation`,
            `partial(row_correlation, grid=grid)` or `lambda row: centroid_shift(row, grid)[0]`.
        rows: One row per image, because rows of the same image are not independent.
        permutations: Number of permutations; p is at least 2 / (1 + permutations).
        seed: Random seed of the permutations, which are the same on every device.
    """
    rng, scores = np.random.default_rng(seed), rows.double().cpu().numpy()
    chunk = max(1, _PERMUTED_CHUNK // rows.numel())
    means = []
    for start in range(0, permutations, chunk):
        some = np.broadcast_to(scores, (min(chunk, permutations - start), *scores.shape))
        means.append(statistic(torch.from_numpy(rng.permuted(some, axis=-1)).to(rows.device)).nanmean(-1))
    null, mean = torch.cat(means), statistic(rows.double()).nanmean()
    if mean.isnan():
        return math.nan
    same = torch.isclose(null, mean, rtol=_ROUNDING, atol=_ROUNDING)
    fewer = min(int(((null > mean) | same).sum()), int(((null < mean) | same).sum()))
    return min(1.0, 2 * (1 + fewer) / (1 + permutations))


def row_null(rows: Float[Tensor, "image patch"], grid: Grid, permutations: int, seed: int) -> float:
    """Returns `positional_null` of `row_correlation`, ten times as fast because ranks are computed once and permuted.

    The coefficient is the inner product of both rank vectors over their norms, which no permutation changes.

    Args:
        rows: One row per image.
        grid: Grid of the patches.
        permutations: Number of permutations.
        seed: Random seed of the permutations.
    """
    ranks, row_ranks = _centred_ranks(rows), _row_ranks(grid).to(rows.device)
    scaled = ranks / (ranks.norm(dim=-1, keepdim=True) * row_ranks.norm())
    return positional_null(lambda permuted: permuted @ row_ranks, scaled, permutations, seed)


def _shares(row: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch patch"]:
    """Returns the scores divided by their sum."""
    if (row < 0).any():
        raise ValueError(
            f"scores down to {float(row.min()):g} are not a mass: give attention or other scores of at least 0, or use "
            f"ranks (top_overlap, spearman, kendall)"
        )
    return row.double() / row.double().sum(-1, keepdim=True)


def _centred_ranks(scores: Real[Tensor, "*batch patch"]) -> Float[Tensor, "*batch patch"]:
    """Returns mean ranks minus their mean, so that those of a constant row are exactly 0."""
    scores = scores.contiguous()
    ordered = scores.sort(-1).values
    below = torch.searchsorted(ordered, scores)
    ranks = (below + torch.searchsorted(ordered, scores, right=True)).double() / 2
    return (ranks - scores.shape[-1] / 2).masked_fill(scores.isnan().any(-1, keepdim=True), torch.nan)


def _row_ranks(grid: Grid) -> Float[Tensor, " patch"]:
    """Returns the centred ranks of the patches by grid row."""
    return _centred_ranks(torch.arange(grid.patches) // grid.columns)


def _correlated(a: Float[Tensor, "*batch patch"], b: Float[Tensor, "*#batch patch"]) -> Float[Tensor, "*batch"]:
    """Returns the Pearson correlation of centred ranks."""
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return ((a * b).sum(-1) / scale).clamp(-1, 1)


def _tau(a: Float[Tensor, "row patch"], b: Float[Tensor, "row patch"]) -> Float[Tensor, " row"]:
    """Returns tau-b of pairs of rows."""
    signs = [(x[:, None] > x[:, :, None]).char() - (x[:, None] < x[:, :, None]).char() for x in (a, b)]
    both = (signs[0] * signs[1]).sum((1, 2)).double()
    untied = [sign.abs().sum((1, 2)).double() for sign in signs]
    unknown = (a.isnan() | b.isnan()).any(-1)
    return (both / (untied[0] * untied[1]).sqrt()).masked_fill(unknown, torch.nan)


def _offsets(count: int) -> Float[Tensor, " cell"]:
    """Returns the centres of the cells that divide the interval [-1/2, 1/2] evenly."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5
