"""Random walks on the graph of similar patches."""

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.functional.matching import cosine


def propagated(
    features: Float[Tensor, "batch patch dim"], least: float, temperature: float, steps: int
) -> Float[Tensor, "batch patch"]:
    """Returns the lengths of the features after some steps along edges, divided by the number of edges of each patch.

    In each step a patch passes its value on to its neighbours, and to itself, by a softmax of similarity.

    Args:
        features: Features of the patches.
        least: Least cosine of neighbours.
        temperature: Divisor of the cosines in the softmax.
        steps: Number of steps.
    """
    similarity = cosine(features, features)
    edges = (similarity >= least) | torch.eye(features.shape[1], dtype=torch.bool, device=features.device)
    passes = (similarity / temperature).masked_fill(~edges, -torch.inf).softmax(2)
    values = features.to(passes).norm(dim=2)[:, None]
    for _ in range(steps):
        values = values @ passes
    return values[:, 0] / edges.sum(2)
