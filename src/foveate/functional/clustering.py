"""Clusters around peaks of density."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.trace import PADDING


def density_peaks(
    points: Float[Tensor, "batch point dim"], real: Bool[Tensor, "batch point"], clusters: Int[Tensor, " batch"]
) -> tuple[Int[Tensor, "batch cluster"], Int[Tensor, "batch point"]]:
    """DPC-KNN without its random noise; equal scores stand in the order of `torch.topk`, as in the authors' code.

    The density of a point is exp(-mean squared distance to its k nearest points, itself among them), with as many
    neighbours as clusters and distances divided by sqrt(dim). Centres are the points with the greatest product of
    density and distance to the nearest denser point (the densest: the greatest distance of any two points).

    Args:
        points: Of images with fewer points, those not `real` are ignored.
        real: See `points`.
        clusters: How many for each image; not more than it has points.

    Returns:
        The centres (points) by falling score, `PADDING` last, and for each point its cluster.
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
    """The points with the highest scores; images with equally many points together, as ties depend on the number."""
    counts = real.sum(1)
    best = torch.full((len(score), int(clusters.max())), PADDING, device=score.device)
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero()[:, 0]
        points = real[rows].nonzero()[:, 1].reshape(len(rows), count)
        top = score[rows[:, None], points].topk(min(count, int(clusters[rows].max())), dim=1).indices
        best[rows, : top.shape[1]] = points.gather(1, top)
    return limited(best, clusters)


def limited(chosen: Int[Tensor, "batch slot"], counts: Int[Tensor, " batch"]) -> Int[Tensor, "batch slot"]:
    """The first `counts` of each row; the rest becomes `PADDING`."""
    beyond = torch.arange(chosen.shape[1], device=chosen.device) >= counts[:, None]
    return chosen.masked_fill(beyond, PADDING)
