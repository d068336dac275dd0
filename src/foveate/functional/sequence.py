"""Removing tokens from padded sequences."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def gather_left_padded(
    keep: Bool[Tensor, "batch token"],
) -> tuple[Int[Tensor, "batch kept"], Bool[Tensor, "batch kept"]]:
    """Where each row's remaining tokens come from, right-aligned in order, and which of the places are real.

    Rows may keep different numbers of tokens; shorter ones are padded on the left.
    """
    longest = int(keep.sum(1).max())
    index = keep.long().argsort(dim=1, stable=True)[:, keep.shape[1] - longest :]
    return index, keep.gather(1, index)


def positions(mask: Bool[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """Position of each real token, counted from 0 without the padding; padding gets 0."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def scatter_kept(
    placeholder: Bool[Tensor, "batch token"], kept: Int[Tensor, "image kept"], patches: int
) -> Bool[Tensor, "batch token"]:
    """Which tokens stay when of every image's `patches` placeholders only the `kept` ones do.

    Images fill the placeholders in reading order; a row may hold several images.
    """
    stay = torch.zeros(len(kept), patches, dtype=torch.bool, device=kept.device).scatter_(1, kept, True)
    result = ~placeholder
    result[placeholder] = stay.flatten()
    return result
