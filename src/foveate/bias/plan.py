"""Plans of measurements of bias."""

from dataclasses import dataclass

from foveate.core.budget import check_budgets
from foveate.core.errors import BudgetError

FIX_DATA = "correct the data"


@dataclass(frozen=True)
class BiasPlan:
    """Settings of a measurement of bias.

    Attributes:
        keep: Number of top-scored patches that measures of overlap compare, a count or a share of the patches.
        side: Side in patches of the blocks that are removed to measure causal effects.
        blocks: Maximum number of blocks, which are larger than `side` if more would be needed to cover the image; None
            means no maximum.
        orders: Number of random orders in which blocks are added for Shapley values; each order is also reversed.
        shares: Shares of the patches that the insertion and deletion curves keep or remove.
        tokens: Number of tokens at the beginning of an answer that have rows of their own.
        head_rows: Whether single heads have rows of their own.
    """

    keep: int | float = 0.11
    side: int = 3
    blocks: int | None = None
    orders: int = 2
    shares: tuple[float, ...] = (0.03, 0.08, 0.2, 0.5)
    tokens: int = 8
    head_rows: bool = True

    def check(self) -> None:
        """Checks what does not depend on the grid.

        Raises:
            BudgetError: A value is out of range.
        """
        check_budgets((self.keep, *self.shares))
        if not self.shares:
            raise BudgetError("shares=(): a curve needs at least one share of the patches, such as 0.1")
        if self.side < 1:
            raise BudgetError(f"side={self.side}: expected at least 1 patch")
        if self.orders < 1:
            raise BudgetError(f"orders={self.orders}: expected at least 1 random order of the blocks")
        if self.tokens < 1:
            raise BudgetError(f"tokens={self.tokens}: expected at least 1 token of an answer")
        if self.blocks is not None and self.blocks < 1:
            raise BudgetError(
                f"blocks={self.blocks}: expected at least 1; leave it out to choose the blocks by their side alone"
            )
