"""Whether two score maps agree, how concentrated one is, and whether it prefers places or sinks.

A row is what one query gives to the patches of an image, in raster order. Before the patch axis stand any others, such
as image, layer and head; both sides have the same ones (`expand` if not), and every pair of rows is compared on its
own. What speaks of ranks takes scores of any sign; what speaks of mass takes scores of at least 0, divides by their
sum, and is NaN where that is 0. Values are float64.
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

_AT_ONCE = 2**22  # pairs of patches; more would only cost memory
_PERMUTED_AT_ONCE = 2**18  # patches, which a processor's cache holds
_ROUNDING = 1e-12  # two means of the same values in another order differ by less


def top_overlap(
    a: Float[Tensor, "*batch patch"], b: Float[Tensor, "*batch patch"], keep: int
) -> Float[Tensor, "*batch"]:
    """|top(a) ∩ top(b)| / keep, where top are the `keep` highest scores and equal scores go to the lower index.

    As in `ranked`, a score of -inf is never chosen; where that leaves fewer than `keep`, the larger set divides. Two
    unrelated rows overlap by keep / patches on average.

    Raises:
        BudgetError: There are not so many patches.
    """
    patches = a.shape[-1]
    if not 1 <= keep <= patches:
        raise BudgetError(f"the top {keep} of {patches} patches: choose 1..{patches}")
    tops = [marked(ranked(scores.reshape(-1, patches), keep), patches) for scores in (a, b)]
    larger = torch.stack(tops).sum(-1).amax(0)
    return ((tops[0] & tops[1]).sum(-1).double() / larger).reshape(a.shape[:-1])


def spearman(a: Float[Tensor, "*batch patch"], b: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """Pearson correlation of the ranks, tied scores sharing their mean rank; NaN where a side is constant or has NaN.

    Source: Spearman 1904, "The proof and measurement of association between two things".
    """
    return _correlated(_centred_ranks(a), _centred_ranks(b))


def kendall(a: Float[Tensor, "*batch patch"], b: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """tau-b: (concordant - discordant) / sqrt(untied in a * untied in b), over all pairs of patches.

    NaN where a side is constant or has NaN. A few rows at a time, for the number of pairs is quadratic in that of
    patches.

    Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    patches = a.shape[-1]
    rows = max(1, _AT_ONCE // patches**2)
    chunks = zip(a.reshape(-1, patches).split(rows), b.reshape(-1, patches).split(rows), strict=True)
    return torch.cat([_tau(*chunk) for chunk in chunks]).reshape(a.shape[:-1])


def kendall_matrix(maps: Float[Tensor, "*batch map patch"]) -> Float[Tensor, "*batch map map"]:
    """`kendall` of every pair of maps about the same image, by one product instead of one pass per pair.

    With s_a(i, j) the sign of a_i - a_j: tau_b(a, b) = <s_a, s_b> / sqrt(<s_a, s_a> <s_b, s_b>).
    """
    count, patches = maps.shape[-2:]
    parts = []
    for few in maps.reshape(-1, count, patches).split(max(1, _AT_ONCE // (count * patches**2))):
        signs = (few[..., :, None] - few[..., None, :]).sign().flatten(-2).double()
        products = signs @ signs.mT
        untied = products.diagonal(dim1=-2, dim2=-1)
        parts.append(products / (untied[..., :, None] * untied[..., None, :]).sqrt())
    return torch.cat(parts).reshape(*maps.shape[:-1], count)


def jensen_shannon(a: Float[Tensor, "*batch patch"], b: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """Divergence in bits, H((p + q) / 2) - (H(p) + H(q)) / 2: 0 for equal rows, 1 for rows that share no patch.

    It is the square of the distance of the same name.

    Source: Lin 1991, "Divergence measures based on the Shannon entropy".
    """
    p, q = _shares(a), _shares(b)
    return (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).clamp(0, 1)


def retained_mass(row: Float[Tensor, "*batch patch"], stays: Bool[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """Share of the row's mass on the patches that stay; what the row gives to other tokens than patches is left out."""
    return (_shares(row) * stays).sum(-1)


def entropy(row: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """H(p) = -sum p log2 p in bits, of the shares p of the patches in the row's mass."""
    return torch.special.entr(_shares(row)).sum(-1) / math.log(2)


def effective_tokens(row: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """2 ** H(p): the number of patches which, equally attended, would have the same entropy.

    Source: Hill 1973, "Diversity and evenness" (the number of order 1).
    """
    return entropy(row).exp2()


def raster_correlation(row: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch"]:
    """`spearman` of score and raster index: 1 where later patches always have more."""
    index = torch.arange(row.shape[-1], device=row.device)
    return _correlated(_centred_ranks(row), _centred_ranks(index))


def row_correlation(row: Float[Tensor, "*batch patch"], grid: Grid) -> Float[Tensor, "*batch"]:
    """`spearman` of score and grid row: positive where the bottom of the image has more.

    Patches of one grid row are tied there, so 1 is reached only by scores that are tied likewise.

    Source: arXiv 2412.13180v1 (the bias of early layers towards the bottom; the coefficient is ours).
    """
    return _correlated(_centred_ranks(row), _row_ranks(grid).to(row.device))


def centroid_shift(
    row: Float[Tensor, "*batch patch"], grid: Grid
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """How far (down, right) the centroid of the mass lies from the centre, in heights and widths of the grid.

    Mass stands at the centres of its patches; so all of it in the last of R grid rows is 1/2 - 1/(2R) down.
    """
    shares = _shares(row).unflatten(-1, (grid.rows, grid.columns))
    return shares.sum(-1) @ _offsets(grid.rows).to(shares), shares.sum(-2) @ _offsets(grid.columns).to(shares)


def last_rows_share(row: Float[Tensor, "*batch patch"], grid: Grid, rows: int) -> Float[Tensor, "*batch"]:
    """Share of the mass in the last `rows` rows of the grid; rows / grid.rows if it is spread evenly.

    Source: arXiv 2412.13180v1 (the bias of early layers towards the bottom; the share is ours).
    """
    last = torch.arange(grid.patches, device=row.device) >= (grid.rows - rows) * grid.columns
    return retained_mass(row, last.expand_as(row))


def sink_share(
    row: Float[Tensor, "*batch patch"], norms: Float[Tensor, "*batch patch"], factor: float = 1.5
) -> Float[Tensor, "*batch"]:
    """Share of the mass on sinks: patches whose norm lies more than `factor` IQR above the image's upper quartile.

    Tukey's rule, as for scores in `functional.outliers`. The authors draw one line for a whole model, at a norm of 150
    for DINOv2, which no other model shares. Of norms without sinks the rule still calls some outliers, 0.3 % where
    they are normally distributed.

    Source: arXiv 2309.16588v2 (patches of high norm); Tukey 1977, "Exploratory data analysis" (the rule).

    Args:
        row: Attention.
        norms: Of the patches' features, in the layer whose sinks are meant.
        factor: See above; 3 finds what Tukey calls far out.
    """
    return retained_mass(row, outlying(norms, factor))


def positional_null(
    statistic: Callable[[Tensor], Tensor], rows: Float[Tensor, "image patch"], permutations: int, seed: int
) -> float:
    """Two-sided p of the mean of a statistic over images, if every image's scores stood at its patches in any order.

    p = 2 min(1 + #{null >= mean}, 1 + #{null <= mean}) / (1 + permutations), at most 1: the observed order counts as
    one of them, and p is never 0. Images whose statistic is NaN are left out.

    The hypothesis is that place means nothing at all, also to neighbours. It is wrong as well where attention falls on
    things, which are larger than a patch, and lie anywhere: then p is far too small, for the mean of smooth maps varies
    more than that of their permutations, with any number of images. (Of unbiased noise blurred by a Gaussian of one
    patch on 24 x 24, about half has p < 0.05.) So a large p acquits, and a small one shows no bias without an interval
    over images of the statistic itself, which is about 0, or an even share, if there is none.

    Source: Phipson and Smyth 2010, "Permutation p-values should never be zero"; two sides as in scipy.

    Args:
        statistic: From "*batch patch" to "*batch", such as `raster_correlation`, `partial(row_correlation, grid=grid)`
            or `lambda row: centroid_shift(row, grid)[0]`.
        rows: One per image; rows of the same image are no independent evidence.
        permutations: How many; p is at least 2 / (1 + permutations).
        seed: Of the permutations, which are the same on every device.
    """
    rng, scores = np.random.default_rng(seed), rows.double().cpu().numpy()
    chunk = max(1, _PERMUTED_AT_ONCE // rows.numel())
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
    """`positional_null` of `row_correlation`, ten times as fast: ranks are permuted, and so found only once.

    The coefficient is the product of both sides' ranks over their scales, which are the same in any order.

    Args:
        rows: As in `positional_null`.
        grid: Of the patches.
        permutations: As in `positional_null`.
        seed: Likewise.
    """
    ranks, place = _centred_ranks(rows), _row_ranks(grid).to(rows.device)
    scaled = ranks / (ranks.norm(dim=-1, keepdim=True) * place.norm())
    return positional_null(lambda some: some @ place, scaled, permutations, seed)


def _shares(row: Float[Tensor, "*batch patch"]) -> Float[Tensor, "*batch patch"]:
    if (row < 0).any():
        raise ValueError(
            f"scores down to {float(row.min()):g} are no mass: give attention or other scores of at least 0, or use "
            f"ranks (top_overlap, spearman, kendall)"
        )
    return row.double() / row.double().sum(-1, keepdim=True)


def _centred_ranks(scores: Real[Tensor, "*batch patch"]) -> Float[Tensor, "*batch patch"]:
    """Mean ranks less their mean, which makes those of a constant row exactly 0."""
    scores = scores.contiguous()
    ordered = scores.sort(-1).values
    below = torch.searchsorted(ordered, scores)
    ranks = (below + torch.searchsorted(ordered, scores, right=True)).double() / 2
    return (ranks - scores.shape[-1] / 2).masked_fill(scores.isnan().any(-1, keepdim=True), torch.nan)


def _row_ranks(grid: Grid) -> Float[Tensor, " patch"]:
    """Ranks of the patches by grid row."""
    return _centred_ranks(torch.arange(grid.patches) // grid.columns)


def _correlated(a: Float[Tensor, "*batch patch"], b: Float[Tensor, "*#batch patch"]) -> Float[Tensor, "*batch"]:
    """Pearson correlation of ranks that are centred."""
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return ((a * b).sum(-1) / scale).clamp(-1, 1)


def _tau(a: Float[Tensor, "row patch"], b: Float[Tensor, "row patch"]) -> Float[Tensor, " row"]:
    signs = [(x[:, None] > x[:, :, None]).char() - (x[:, None] < x[:, :, None]).char() for x in (a, b)]
    both = (signs[0] * signs[1]).sum((1, 2)).double()
    untied = [sign.abs().sum((1, 2)).double() for sign in signs]
    unknown = (a.isnan() | b.isnan()).any(-1)
    return (both / (untied[0] * untied[1]).sqrt()).masked_fill(unknown, torch.nan)


def _offsets(count: int) -> Float[Tensor, " cell"]:
    """Centres of so many cells of a line of length 1 around 0."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5
