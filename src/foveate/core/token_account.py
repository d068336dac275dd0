"""Visual tokens as the language model processes them: block by block, merged, extra and recycled ones counted.

A method's own number ("keep 192") is one of four: tokens given to the language model, tokens after its last cut, the
mean over its blocks, or a mean over a data set. Methods are compared by the third, the equivalent tokens: the number
that, kept from the first block on, would cost the blocks as many tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenAccount:
    """Visual tokens of each prompt that enter each block of the language model."""

    per_block: Float[Tensor, "prompt block"]

    @property
    def given(self) -> Float[Tensor, " prompt"]:
        """Tokens that the language model is given."""
        return self.per_block[:, 0]

    @property
    def left(self) -> Float[Tensor, " prompt"]:
        """Tokens that the last block still sees."""
        return self.per_block[:, -1]

    @property
    def equivalent(self) -> Float[Tensor, " prompt"]:
        """Mean over the blocks."""
        return self.per_block.mean(1)

    @property
    def cached(self) -> Float[Tensor, " prompt"]:
        """Entries of visual tokens in the key-value cache, over all blocks, once the prompt has run."""
        return self.per_block.sum(1)

    def __float__(self) -> float:
        return float(self.equivalent.mean())

    def __repr__(self) -> str:
        blocks = ", ".join(f"{tokens:g}" for tokens in self.per_block.mean(0).tolist())
        return f"TokenAccount({float(self):g} equivalent tokens; per block: {blocks})"


def account(per_block: list[Tensor]) -> TokenAccount:
    """From the counts of each prompt at each block."""
    return TokenAccount(torch.stack(per_block, 1).float())
