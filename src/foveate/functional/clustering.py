"""Clustering around density peaks."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.trace import PADDING


def density_peaks(
    points: Float[Tensor, "batch point dim"], real: Bool[Tensor, "batch point"], clusters: Int[Tensor, " batch"]
) -> tuple[Int[Tensor, "batch cluster"], Int[Tensor, "batch point"]]:
    """Clusters points by DPC-KNN without random noise; ties are in the order of `torch.topk`, as in the authors' code.

    The density of a point is exp(-mean squared distance to its k nearest points), which include the point itself, with
    as many neighbours as clusters and distances divided by sqrt(dim). Centres are the points with the greatest product
    of density and distance to the nearest denser point; for the densest point, the greatest distance of any two points.

    Args:
        points: The points.
        real: Mask of the points; others are ignored.
        clusters: Number of clusters of each image, at most its number of points.

    Returns:
        The indices of the centres by falling score, `PADDING` last, and for each point its cluster.
    """
    exact = points.to(torch.promote_types(points.dtype, torch.float32))
    distance = torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist") / points.shape[2] ** 0.5
    pair = real[:, :, None] & real[:, None]
    counted = torch.arange(points.shape[1], device=points.device) < clusters[:, None, None]
    closest = distance.masked_fill(~pair, torch.inf).sort(-1).values.square()
    density = (-torch.where(counted, closest, 0).sum(-1) / clusters[:, None].clamp(min=1)).exp()
    denser = (density[:, None] > density[:, :, None]) & pair
    furthest = distance.masked_fill(~pair, 0).amax((1, 2), keepdim=True)
    score = density * torch.where(denser, distance, furthest).amin(-1)
    centres = _best(score, real, clusters)
    away = distance.gather(2, centres.clamp(min=0)[:, None].expand(-1, points.shape[1], -1))
    itself = centres[:, None] == torch.arange(points.shape[1], device=points.device)[:, None]
    away = away.masked_fill(centres[:, None] == PADDING, torch.inf).masked_fill(itself, -1)
    return centres, away.argmin(-1)


def _best(
    score: Float[Tensor, "batch point"], real: Bool[Tensor, "batch point"], clusters: Int[Tensor, " batch"]
) -> Int[Tensor, "batch cluster"]:
    """Returns the points with the highest scores, in batches of equally many points, as ties depend on the number."""
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
