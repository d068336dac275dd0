"""Counts of the visual tokens at each block of the language model, including merged, extra and recycled ones.

The number in a method's paper ("keep 192") is one of four: tokens at the first block, tokens after the last cut, the
mean over the blocks, or a mean over a data set. Methods are compared by the mean over the blocks, the equivalent
tokens: keeping this number from the first block on costs the blocks as many tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenAccount:
    """Numbers of visual tokens of each prompt at each block of the language model."""

    per_block: Float[Tensor, "prompt block"]

    @property
    def given(self) -> Float[Tensor, " prompt"]:
        """Tokens at the first block."""
        return self.per_block[:, 0]

    @property
    def left(self) -> Float[Tensor, " prompt"]:
        """Tokens at the last block."""
        return self.per_block[:, -1]

    @property
    def equivalent(self) -> Float[Tensor, " prompt"]:
        """Equivalent tokens: the mean over the blocks."""
        return self.per_block.mean(1)

    @property
    def cached(self) -> Float[Tensor, " prompt"]:
        """Entries of visual tokens in the key-value cache of all blocks after prefill."""
        return self.per_block.sum(1)

    def __float__(self) -> float:
        return float(self.equivalent.mean())

    def __repr__(self) -> str:
        blocks = ", ".join(f"{tokens:g}" for tokens in self.per_block.mean(0).tolist())
        return f"TokenAccount({float(self):g} equivalent tokens; per block: {blocks})"


def account(per_block: list[Tensor]) -> TokenAccount:
    """Returns the account of the counts of each prompt at each block."""
    return TokenAccount(torch.stack(per_block, 1).float())
