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
        blocks: At most so many blocks, which are larger than `side` where more would be needed to cover the picture;
            None: as many as there are of that side.
        shares: Of the patches that are left, or taken away, along the curves.
        head_rows: Whether single heads have rows of their own.
    """

    keep: int | float = 0.11
    side: int = 3
    blocks: int | None = None
    shares: tuple[float, ...] = (0.05, 0.11, 0.25, 0.5)
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
        if self.blocks is not None and self.blocks < 1:
            raise BudgetError(f"blocks={self.blocks}: at least one is taken away; leave it out to cut by side alone")
