"""The plan of a measurement of bias."""

from dataclasses import dataclass

from foveate.core.budget import check_budgets
from foveate.core.errors import BudgetError

MEND_IT = "mend the data"


@dataclass(frozen=True)
class BiasPlan:
    """How bias is measured.

    Attributes:
        keep: How many patches "the top" are, a count or a share of them.
        side: Of the blocks of patches that are taken away to see what the answer hangs on.
        blocks: At most so many blocks, which are larger than `side` where more would be needed to cover the image;
            None: as many as there are of that side.
        orders: Random orders in which the blocks come in one after the other; each is also reversed.
        shares: Of the patches that are left, or taken away, along the curves.
        tokens: How many tokens at the beginning of an answer have rows of their own.
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
        """Refuses what fits no grid.

        Raises:
            BudgetError: Something is out of range.
        """
        check_budgets((self.keep, *self.shares))
        if not self.shares:
            raise BudgetError("shares=(): a curve needs at least one share of the patches, such as 0.1")
        if self.side < 1:
            raise BudgetError(f"side={self.side}: expected 1 or more patches")
        if self.orders < 1:
            raise BudgetError(f"orders={self.orders}: expected 1 or more, for blocks are valued beside others")
        if self.tokens < 1:
            raise BudgetError(f"tokens={self.tokens}: expected 1 or more tokens of an answer")
        if self.blocks is not None and self.blocks < 1:
            raise BudgetError(f"blocks={self.blocks}: at least one is taken away; leave it out to cut by side alone")
