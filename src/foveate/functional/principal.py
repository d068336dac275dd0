"""Principal directions of the patches of an image."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_POWER_ITERATIONS = 2  # those of torch.pca_lowrank
_SPENT = 1e-10  # share of the greatest variance below which a direction is rounding error


def principal_loadings(
    features: Float[Tensor, "batch patch dim"], count: int, seed: int | None = None
) -> Float[Tensor, "batch patch component"]:
    """Returns the loadings of the patches on the strongest principal directions of the channels, float64.

    Every channel is a sample and every patch a variable; the mean of each patch over its channels is subtracted. The
    signs of a direction's loadings are arbitrary, and they are 0 for directions without variance.

    Args:
        features: The features.
        count: Number of directions; there are at most as many as patches, and as channels.
        seed: None decomposes exactly. A number gives the randomised decomposition of `torch.pca_lowrank`, with a
            Gaussian matrix that NumPy draws with this seed, the same for all images.
    """
    centred = features.double()
    centred = centred - centred.mean(2, keepdim=True)
    count = min(count, *features.shape[1:])
    loadings, variance = _exact(centred, count) if seed is None else _randomised(centred, count, seed)
    return loadings * (variance > _SPENT * variance.amax(1, keepdim=True))[:, None]


def _exact(centred: Float[Tensor, "batch patch dim"], count: int) -> tuple[Tensor, Tensor]:
    """Returns loadings and variances, from the smaller of the two products of the features with themselves."""
    if centred.shape[1] <= centred.shape[2]:
        variance, loadings = torch.linalg.eigh(centred @ centred.mT)
        return loadings.flip(-1)[..., :count], variance.flip(-1)[..., :count]
    variance, samples = torch.linalg.eigh(centred.mT @ centred)
    variance, samples = variance.flip(-1)[..., :count].clamp(min=0), samples.flip(-1)[..., :count]
    return centred @ samples / variance.sqrt().clamp(min=torch.finfo(variance.dtype).tiny)[:, None], variance


def _randomised(centred: Float[Tensor, "batch patch dim"], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns loadings and variances; the matrix is drawn for the shorter side if that is the channels."""
    wide = centred.shape[1] <= centred.shape[2]
    tall = centred.mT if wide else centred
    drawn = np.random.default_rng(seed).standard_normal((tall.shape[2], count))
    basis = torch.linalg.qr(tall @ torch.from_numpy(drawn).float().to(tall)).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(tall.mT @ basis).Q
        basis = torch.linalg.qr(tall @ basis).Q
    left, strength, right = torch.linalg.svd(basis.mT @ tall, full_matrices=False)
    return right.mT if wide else basis @ left, strength.square()
