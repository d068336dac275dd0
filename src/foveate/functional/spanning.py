"""A few tokens that span the others, and what they leave unexplained."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.transfer import on_device


def drawn(seed: int, keys: Int[Tensor, " batch"], real: Bool[Tensor, "batch token"]) -> Int[Tensor, " batch"]:
    """Returns a random real token of each row, which depends on the seed, the row's key and its number of tokens.

    Args:
        seed: The seed.
        keys: A number per row, such as `Fingerprint` gives.
        real: Mask of the tokens that can be drawn.
    """
    counts = real.sum(1).tolist()
    numbers = [np.random.default_rng([seed, key]).integers(n) for key, n in zip(keys.tolist(), counts, strict=True)]
    nth = on_device(torch.tensor(numbers), real.device)[:, None]
    return (real & (real.long().cumsum(1) == nth + 1)).long().argmax(1)


def furthest(
    features: Float[Tensor, "batch token dim"],
    start: Int[Tensor, " batch"],
    real: Bool[Tensor, "batch token"],
    count: int,
) -> Int[Tensor, "batch pick"]:
    """Chooses `start`, then always the real token whose nearest chosen one is furthest (Euclidean).

    Rows with fewer than `count` real tokens repeat some.
    """
    exact, image = features.double(), torch.arange(len(features), device=features.device)
    picks = [on_device(start, features.device)]
    distance = torch.where(on_device(real, features.device), torch.inf, -torch.inf).to(exact)
    for _ in range(min(count, features.shape[1]) - 1):
        last = exact[image, picks[-1]][:, None]
        distance = torch.minimum(distance, (exact - last).square().sum(-1))
        picks.append(distance.argmax(1))
    return torch.stack(picks, 1)


def unexplained(
    features: Float[Tensor, "batch token dim"], basis: Float[Tensor, "batch pick dim"], ridge: float
) -> Float[Tensor, "batch token"]:
    """Returns the distance of each token from its ridge regression on the basis.

    Args:
        features: The tokens.
        basis: The tokens of the basis.
        ridge: Weight of the squared coefficients.
    """
    features, basis = features.double(), basis.double()
    gram = basis @ basis.mT + ridge * torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
    coefficients = torch.linalg.solve(gram, basis @ features.mT).mT
    return (features - coefficients @ basis).norm(dim=-1)
