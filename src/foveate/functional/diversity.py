"""Greedy selection by the gain of a patch over those already chosen.

All functions return patches in the order of choice. Of equal gains the lower index is chosen, no patch is chosen twice,
and rows with fewer `free` patches than others end in `PADDING`. Similarities should be float64: gains differ so little
that in float32 the result depends on rounding, and with it on the batch size.

The gain of a patch only falls while others are chosen, so an earlier gain is an upper bound, and patches whose bound is
below the best gain need not be evaluated (Minoux 1978). The result is the same. An accelerator evaluates all of them,
in a few kernels per choice: to read the bounds would make it wait.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.trace import PADDING
from foveate.functional.ranking import longest, marked

_SPENT = 1e-10  # share of a patch's own variance below which the remainder is rounding error
_POOL = 512  # patches among which `determinantal` chooses until one outside might be better
_RENEWED = 32  # bounds that `coverage` recomputes at a time
_ROWS = 64  # rows of a matrix at a time, whose copy stays in the processor's cache
_MANY_ROWS = 1024  # on an accelerator, whose memory their copy must fit into


def max_min(
    similarity: Float[Tensor, "batch patch patch"], free: Bool[Tensor, "batch patch"], keep: int
) -> Int[Tensor, "batch kept"]:
    """Chooses the patch whose nearest other is furthest, then always the one furthest from its nearest chosen patch."""
    return by_nearest(similarity, _to_nearest_other(similarity, free), lambda closest: 1 - closest, free, keep)


def by_nearest(
    similarity: Float[Tensor, "batch patch patch"],
    first: Float[Tensor, "batch patch"],
    gain: Callable[[Tensor], Tensor],
    free: Bool[Tensor, "batch patch"],
    keep: int,
    at_once: int = 1,
) -> Int[Tensor, "batch kept"]:
    """Chooses patches by a gain that depends on the most similar patch chosen so far.

    Args:
        similarity: Similarities of all pairs.
        first: Gains while nothing is chosen.
        gain: Maps the similarity of each patch to the most similar chosen one to the gains after that, which fall, or
            stay the same, as similarities rise.
        free: Mask of the patches to choose from.
        keep: Number of patches to choose.
        at_once: Number of patches that a round chooses, whatever their similarity to each other.
    """
    choice, picks = _Choice(free, keep), []
    gains, upper = choice.among(first), torch.where(free, torch.inf, -torch.inf).to(first)
    for step in range(0, choice.width, at_once):
        count = min(at_once, choice.width - step)
        if count == 1:
            pick = gains.argmax(1, keepdim=True)
            closest = _rows(similarity, pick)[:, 0]
        else:
            pick = gains.sort(dim=1, descending=True, stable=True).indices[:, :count]
            closest = _rows(similarity, pick).amax(1)
        picks.append(pick)
        # As gains fall, that of the most similar chosen patch is the least; chosen patches keep -inf.
        gains = upper = torch.minimum(upper, gain(closest)).scatter_(1, pick, -torch.inf)
    return choice.limited(torch.cat([*picks, free[:, :0].long()], 1))


def determinantal(
    kernel: Float[Tensor, "batch patch patch"], free: Bool[Tensor, "batch patch"], keep: int
) -> Int[Tensor, "batch kept"]:
    """Chooses the patch that maximises the determinant of the chosen part of a positive semidefinite kernel.

    The gain is the variance of a patch that the chosen ones do not explain. Once they span everything, because more
    patches are chosen than the kernel has rank, the others follow by their entry on the diagonal.

    Every pick adds a row to the kernel's Cholesky factor (Chen et al. 2018, arXiv 1709.05135v2), at first only in the
    columns of a pool of the best patches. When a patch outside the pool might be better, all columns are updated in one
    matrix product.
    """
    if kernel.device.type != "cpu":
        return _determinantal_at_once(kernel, free, keep)
    choice, kernel = _Choice(free, keep), kernel.double()
    own = kernel.diagonal(dim1=1, dim2=2)
    spent = own - own.amax(1, keepdim=True) - 1  # negative, so ranked after all patches with a gain
    left = own.clone()
    pooled = left.shape[1] if torch.compiler.is_exporting() else min(_POOL, left.shape[1])
    factor = left.new_empty(left.shape[0], choice.width, left.shape[1])
    part = left.new_empty(left.shape[0], choice.width, pooled)  # columns of the pool
    while choice.open:
        start = choice.step
        best = choice.among(torch.where(left > _SPENT * own, left, spent)).sort(dim=1, descending=True, stable=True)
        pool = best.indices[:, :pooled].sort(1).values  # ascending, as equal gains go to the lower index
        rival = best.values[:, pooled:].amax(1, keepdim=True) if left.shape[1] > pooled else None
        if start:
            part[:, :start] = factor[:, :start].gather(2, pool[:, None].expand(-1, start, -1))
        picks = _picked_in(pool, rival, part, kernel, (left, own, spent), choice)
        if not choice.open:
            break
        _catch_up(kernel, factor[:, : choice.step], part[:, start : choice.step], pool, picks)
        for row in factor[:, start : choice.step].unbind(1):
            left.addcmul_(row, row, value=-1)
    return choice.chosen


def coverage(
    cover: Float[Tensor, "batch row patch"],
    weight: Float[Tensor, "batch patch"],
    bonus: Float[Tensor, "batch patch"],
    free: Bool[Tensor, "batch patch"],
    keep: int,
) -> Int[Tensor, "batch kept"]:
    """Chooses the patch that most increases the sum, over rows, of the greatest entry of the chosen (0 at first).

    Args:
        cover: Coverage of each row by each patch; negative entries count as 0, and rows of zeros do not matter. Fastest
            if it is the transpose of a contiguous tensor.
        weight: Factor of each patch's gain, not negative.
        bonus: Term added to each patch's gain.
        free: Mask of the patches to choose from.
        keep: Number of patches to choose.
    """
    if cover.device.type != "cpu":
        return _coverage_at_once(cover, weight, bonus, free, keep)
    choice, columns = _Choice(free, keep), cover.mT.contiguous()
    covered = torch.zeros_like(columns[:, 0])

    def gain(patches: Int[Tensor, "batch some"]) -> Float[Tensor, "batch some"]:
        added = columns[choice.image, patches].sub_(covered[:, None]).clamp_(min=0).sum(-1)
        return added * weight.gather(1, patches) + bonus.gather(1, patches)

    every = torch.arange(free.shape[1], device=free.device).expand_as(free)
    bound = torch.cat([gain(some) for some in every.split(_RENEWED, 1)], 1)
    exact = torch.ones_like(free)
    every_gain = torch.compiler.is_exporting()  # a program cannot branch on values, so no gain is left out
    while choice.open:
        pick = choice.among(bound).argmax(1, keepdim=True)
        if every_gain or (exact.gather(1, pick) | choice.ended).all():
            choice.take(pick)
            torch.maximum(covered, columns[choice.image, pick][:, 0], out=covered)
            exact = torch.zeros_like(free)
            bound = gain(every) if every_gain and choice.open else bound
        else:
            doubtful = choice.among(bound).masked_fill(exact, -torch.inf).topk(min(_RENEWED, free.shape[1])).indices
            bound.scatter_(1, doubtful, gain(doubtful))
            exact.scatter_(1, doubtful, True)
    return choice.chosen


def _determinantal_at_once(
    kernel: Float[Tensor, "batch patch patch"], free: Bool[Tensor, "batch patch"], keep: int
) -> Int[Tensor, "batch kept"]:
    """Returns the choice of `determinantal` in six kernels per patch, none of which reads values.

    A patch is explained once its remaining variance is below a share of its own. That share is subtracted from the
    start, so that the greatest remainder also says whether any patch is left to explain. Rows of the Cholesky factor
    are kept without their division by the root of the pivot, and, divided by the pivot, as columns beside the kernel,
    so that one gathering gives a patch's row of both.
    """
    choice, kernel, patches = _Choice(free, keep), kernel.double(), free.shape[1]
    own = kernel.diagonal(dim1=1, dim2=2)
    spent = _SPENT * own
    left = choice.among(own - spent)
    rows = kernel.new_empty(len(kernel), choice.width, patches)
    beside = torch.cat([kernel, kernel.new_empty(len(kernel), patches, choice.width), spent[..., None]], 2)
    picks, best = [], []
    for step in range(choice.width):
        value, pick = left.max(1, keepdim=True)
        row = _rows(beside, pick)
        known, row_now = row[..., patches : patches + step], rows[:, step : step + 1]
        torch.baddbmm(row[..., :patches], known, rows[:, :step], alpha=-1, out=row_now)
        divided = beside[..., patches + step]
        torch.div(row_now[:, 0], value + row[:, 0, -1:], out=divided)
        left.addcmul_(row_now[:, 0], divided, value=-1)
        picks.append(pick)
        best.append(value)
    explained = torch.cat([*best, own[:, :0]], 1) <= 0
    explained = ~(~explained).long().cumprod(1).bool()  # what follows is noise
    pick = torch.cat([*picks, own[:, :0].long()], 1)
    chosen = marked(pick.masked_fill(explained, PADDING), patches)
    others = own.masked_fill(chosen | ~free, -torch.inf).argsort(dim=1, descending=True, stable=True)
    number = (explained.long().cumsum(1) - 1).clamp(min=0)
    return choice.limited(torch.where(explained, others.gather(1, number), pick))


def _coverage_at_once(
    cover: Float[Tensor, "batch row patch"],
    weight: Float[Tensor, "batch patch"],
    bonus: Float[Tensor, "batch patch"],
    free: Bool[Tensor, "batch patch"],
    keep: int,
) -> Int[Tensor, "batch kept"]:
    """Returns the choice of `coverage` in six kernels per patch, none of which reads values.

    Covers are raised to what is covered already, so that the row of the last choice is what is covered now, and a gain
    is the distance to it, as a sum of absolute values.
    """
    choice, raised, bonus = _Choice(free, keep), cover.mT.clamp(min=0).contiguous(), _Choice(free, keep).among(bonus)
    covered, picks = torch.zeros_like(raised[:, :1]), []
    for _ in range(choice.width):
        gain = torch.addcmul(bonus, torch.cdist(raised, covered, p=1)[..., 0], weight)
        picks.append(gain.argmax(1, keepdim=True))
        bonus.scatter_(1, picks[-1], -torch.inf)
        covered = _rows(raised, picks[-1])
        torch.maximum(raised, covered, out=raised)
    return choice.limited(torch.cat([*picks, free[:, :0].long()], 1))


def thinned(
    similarity: Float[Tensor, "batch patch patch"], queue: Int[Tensor, "batch place"], keep: int, step: int = 8
) -> Int[Tensor, "batch left"]:
    """Removes patches from lists, round by round, until `keep` remain.

    Each round compares the patches at even indices of the list with those at odd indices, and removes (at most) `step`
    even ones with the most similar odd one. The new list is the remaining even ones by falling similarity, then the odd
    ones, so the order of the list matters.

    Args:
        similarity: Similarities of all pairs.
        queue: Lists of patches, `PADDING` last; lists that are short enough stay the same.
        keep: Number of patches that remain, at least 1.
        step: Number of patches that are removed in a round.
    """
    images = torch.arange(queue.shape[0], device=queue.device)[:, None, None]
    width = longest((queue != PADDING).sum(1), queue.shape[1])  # of the longest list, known without reading the lists
    while width > keep:
        length = (queue != PADDING).sum(1)
        leaving = torch.minimum((length - keep).clamp(0, step), (length + 1) // 2)[:, None]
        even, odd = queue[:, ::2], queue[:, 1::2]
        pairs = similarity[images, even.clamp(min=0)[:, :, None], odd.clamp(min=0)[:, None]]
        closest = pairs.masked_fill((odd == PADDING)[:, None], -torch.inf).amax(-1)
        closest = closest.masked_fill(even == PADDING, -torch.inf)
        even = even.gather(1, closest.argsort(dim=-1, descending=True, stable=True))
        even = even.masked_fill(torch.arange(even.shape[1], device=even.device) < leaving, PADDING)
        queue = torch.cat([even, odd], 1)
        width -= min(width - keep, step, (width + 1) // 2)
        queue = queue.gather(1, (queue == PADDING).long().argsort(dim=-1, stable=True)[:, :width])
    return queue[:, :width]


class _Choice:
    """The state of a greedy selection: chosen and free patches."""

    def __init__(self, free: Bool[Tensor, "batch patch"], keep: int) -> None:
        self.free = free.clone()
        self.image = torch.arange(free.shape[0], device=free.device)[:, None]
        self._count = free.sum(1, keepdim=True)
        self.width = longest(self._count, min(keep, free.shape[1]))
        self._picks: list[Tensor] = []

    @property
    def step(self) -> int:
        return len(self._picks)

    @property
    def open(self) -> bool:
        return self.step < self.width

    @property
    def ended(self) -> Bool[Tensor, "batch 1"]:
        """Images without any patch that could be chosen; their picks do not count."""
        return self._count <= self.step

    @property
    def chosen(self) -> Int[Tensor, "batch kept"]:
        return self.limited(torch.cat([*self._picks, self._count[:, :0]], 1))

    def limited(self, picks: Int[Tensor, "batch kept"]) -> Int[Tensor, "batch kept"]:
        """Returns the picks with `PADDING` beyond the number of free patches."""
        return picks.masked_fill(torch.arange(picks.shape[1], device=picks.device) >= self._count, PADDING)

    def among(self, gain: Float[Tensor, "batch patch"]) -> Float[Tensor, "batch patch"]:
        """Returns the gains of free patches, and -inf for the others."""
        return gain.masked_fill(~self.free, -torch.inf)

    def take(self, pick: Int[Tensor, "batch some"]) -> Int[Tensor, "batch some"]:
        """Chooses equally many patches of each image."""
        self.free.scatter_(1, pick, False)
        self._picks.extend(pick.split(1, 1))
        return pick


def _rows(values: Float[Tensor, "batch patch other"], pick: Int[Tensor, "batch some"]) -> Tensor:
    """Returns the rows of some patches of each image in one kernel."""
    return values.gather(1, pick[..., None].expand(-1, -1, values.shape[2]))


def _to_nearest_other(
    similarity: Float[Tensor, "batch patch patch"], free: Bool[Tensor, "batch patch"]
) -> Float[Tensor, "batch patch"]:
    itself = torch.eye(free.shape[1], dtype=torch.bool, device=free.device)
    size = _ROWS if free.device.type == "cpu" else _MANY_ROWS
    alike = [
        some.masked_fill(own | ~free[:, None], -torch.inf).amax(-1)
        for some, own in zip(similarity.split(size, 1), itself.split(size), strict=True)
    ]
    return 1 - torch.cat(alike, 1)


def _picked_in(
    pool: Int[Tensor, "batch slot"],
    rival: Float[Tensor, "batch 1"] | None,
    part: Float[Tensor, "batch step slot"],
    kernel: Float[Tensor, "batch patch patch"],
    variance: tuple[Tensor, Tensor, Tensor],
    choice: _Choice,
) -> Int[Tensor, "batch pick"]:
    """Chooses patches of the pool while none outside might be better, at least one, and fills rows of `part`.

    Args:
        pool: The patches to choose from.
        rival: The greatest gain outside the pool.
        part: The pool's columns of the Cholesky factor.
        kernel: See `determinantal`.
        variance: Unexplained variance of all patches, own variance, and gain of fully explained patches.
        choice: The state of the selection.

    Returns:
        The slots of the chosen patches in the pool.
    """
    left, own, spent = (values.gather(1, pool) for values in variance)
    picks: list[Tensor] = []
    while choice.open:
        gain = torch.where(left > _SPENT * own, left, spent).masked_fill(~choice.free.gather(1, pool), -torch.inf)
        slot = gain.argmax(1, keepdim=True)
        best = gain.gather(1, slot)
        if picks and rival is not None and not ((best > rival) | (rival == -torch.inf)).all():
            break
        pick, pivot = choice.take(pool.gather(1, slot)), left.gather(1, slot)
        row = kernel[choice.image, pick, pool]
        if choice.step > 1:
            before = part[:, : choice.step - 1]
            row = row - (before[choice.image, :, slot] @ before)[:, 0]
        row = torch.where(best > 0, row / pivot.abs().sqrt(), 0)  # zero for patches that are explained or were not free
        part[:, choice.step - 1] = row
        left = left - row.square()
        picks.append(slot)
    return torch.cat(picks, 1)


def _catch_up(
    kernel: Float[Tensor, "batch patch patch"],
    factor: Float[Tensor, "batch step patch"],
    part: Float[Tensor, "batch pick slot"],
    pool: Int[Tensor, "batch slot"],
    picks: Int[Tensor, "batch pick"],
) -> None:
    """Fills in the rows of the Cholesky factor that the picks add, from their columns of the pool."""
    image = torch.arange(pool.shape[0], device=pool.device)[:, None]
    patches, start = pool.gather(1, picks), factor.shape[1] - picks.shape[1]
    corner = part.gather(2, picks[:, None].expand(-1, part.shape[1], -1))
    void = corner.diagonal(dim1=1, dim2=2) == 0
    solved = torch.linalg.solve_triangular(
        (corner + torch.diag_embed(void.to(corner))).mT, torch.eye(picks.shape[1]).to(corner), upper=False
    )
    solved = solved.masked_fill(void[..., None], 0)
    known = factor[image, :start, patches]
    torch.bmm(solved, kernel[image, patches], out=factor[:, start:])
    factor[:, start:].baddbmm_(solved @ known, factor[:, :start], alpha=-1)
