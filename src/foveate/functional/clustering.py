"""Clustering around density peaks."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.trace import PADDING
from foveate.core.transfer import on_device
from foveate.functional.ranking import open_ended, ranked


def density_peaks(
    points: Float[Tensor, "batch point dim"],
    real: Bool[Tensor, "batch point"],
    clusters: Int[Tensor, " batch"],
    neighbours: int | None = None,
    most: int | None = None,
) -> tuple[Int[Tensor, "batch cluster"], Int[Tensor, "batch point"]]:
    """Clusters points by DPC-KNN without random noise; ties are in the order of `torch.topk`, as in the authors' code.

    The density of a point is exp(-mean squared distance to its k nearest points), which include the point itself, with
    distances divided by sqrt(dim). Centres are the points with the greatest product
    of density and distance to the nearest denser point; for the densest point, the greatest distance of any two points.

    Args:
        points: The points.
        real: Mask of the points; others are ignored.
        clusters: Number of clusters of each image, at most its number of points.
        neighbours: The k above, at most the number of points; None means as many as clusters.
        most: The greatest number of clusters that is possible; None means that of the points.

    Returns:
        The indices of the centres by falling score, `PADDING` last, and for each point its cluster.
    """
    exact = points.to(torch.promote_types(points.dtype, torch.float32))
    distance = torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist") / points.shape[2] ** 0.5
    pair = real[:, :, None] & real[:, None]
    nearest = clusters if neighbours is None else real.sum(1).clamp(max=neighbours)
    counted = torch.arange(points.shape[1], device=points.device) < nearest[:, None, None]
    closest = distance.masked_fill(~pair, torch.inf).sort(-1).values.square()
    density = (-torch.where(counted, closest, 0).sum(-1) / nearest[:, None].clamp(min=1)).exp()
    denser = (density[:, None] > density[:, :, None]) & pair
    furthest = distance.masked_fill(~pair, 0).amax((1, 2), keepdim=True)
    score = density * torch.where(denser, distance, furthest).amin(-1)
    centres = _best(score, real, clusters, points.shape[1] if most is None else most)
    away = distance.gather(2, centres.clamp(min=0)[:, None].expand(-1, points.shape[1], -1))
    itself = centres[:, None] == torch.arange(points.shape[1], device=points.device)[:, None]
    away = away.masked_fill(centres[:, None] == PADDING, torch.inf).masked_fill(itself, -1)
    return centres, away.argmin(-1)


def peaks_of(
    points: Float[Tensor, "point dim"], clusters: int, neighbours: int
) -> tuple[Int[Tensor, " cluster"], Int[Tensor, " point"]]:
    """Returns the result of `density_peaks` for one set of points with at least one cluster."""
    real = torch.ones(1, len(points), dtype=torch.bool, device=points.device)
    number = on_device(torch.tensor([clusters]), points.device)
    centres, group = density_peaks(points[None], real, number, neighbours, clusters)
    return centres[0], group[0]


def _best(
    score: Float[Tensor, "batch point"], real: Bool[Tensor, "batch point"], clusters: Int[Tensor, " batch"], most: int
) -> Int[Tensor, "batch cluster"]:
    """Returns the points with the highest scores; on the CPU in batches of equally many, as ties depend on the number.

    On an accelerator, of equal scores the lower index comes first.
    """
    if open_ended(score):
        return limited(ranked(score.masked_fill(~real, -torch.inf), most), clusters)
    counts = real.sum(1)
    best = torch.full((len(score), int(clusters.max())), PADDING, device=score.device)
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero()[:, 0]
        points = real[rows].nonzero()[:, 1].reshape(len(rows), count)
        top = score[rows[:, None], points].topk(min(count, int(clusters[rows].max())), dim=1).indices
        best[rows, : top.shape[1]] = points.gather(1, top)
    return limited(best, clusters)


def limited(chosen: Int[Tensor, "batch slot"], counts: Int[Tensor, " batch"]) -> Int[Tensor, "batch slot"]:
    """Returns the first `counts` entries of each row, and `PADDING` for the rest."""
    beyond = torch.arange(chosen.shape[1], device=chosen.device) >= counts[:, None]
    return chosen.masked_fill(beyond, PADDING)
