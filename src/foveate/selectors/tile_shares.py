"""Shares of the budget for the whole image and its tiles, by an early layer of the whole image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.arrangement import Views
from foveate.core.contracts import Selector
from foveate.core.needs import ClsRows, Need
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.core.values import Share
from foveate.functional.ranking import listed, marked, ranked, top_k
from foveate.functional.regions import rank_within


@dataclass(frozen=True)
class TileShares(Selector):
    """Selector of the best patches of the whole image and of each tile of its enlargement, with budgets for each.

    The whole image gets the share `alpha` of the budget, and at least one patch. The rest is split among the tiles by
    how many of the 1 - alpha strongest patches of the whole image, by [CLS] attention of an early layer, lie in each.
    All products are rounded down, and what is lost is not used. If the views are not a whole image and an enlargement
    of several tiles, the best scores are kept.

    Source: arXiv 2408.10945 (HiRED).

    Attributes:
        alpha: Share of the whole image.
        layer: The early layer of the tower, 0-based, negative from the end.
        as_published: Whether the patches of the whole image are cut into as many runs of raster order as there are
            tiles, as in the authors' code, so that a tile of a 2 x 2 grid counts the patches of six rows. Otherwise a
            patch counts for the tile that shows the same part of the image, as the paper means it.
    """

    needs_keep: ClassVar[bool] = True
    alpha: Share = 0.5
    layer: int = 0
    as_published: bool = True

    @property
    def needs(self) -> tuple[Need, ...]:
        return (ClsRows((self.layer,)),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        if trace.tiles is None or not _is_enlarged(trace.views, trace.tiles):
            return top_k(scores, keep)
        whole, several = trace.views[0].patches, int(trace.tiles.max())
        real, origins = scores > -torch.inf, on_device(trace.origins, scores.device).clamp(min=0)
        tile = on_device(trace.tiles, scores.device)[origins]
        early = trace[ClsRows((self.layer,))][:, 0].sum(1).masked_fill(~real | (tile > 0), -torch.inf)
        strongest = marked(ranked(early, int(whole * (1 - self.alpha))), scores.shape[1])
        shown = on_device(self._shown(trace, trace.tiles), scores.device)[origins.clamp(max=whole - 1)]
        count = torch.zeros(len(scores), several, device=scores.device)
        count.scatter_add_(1, shown - 1, strongest.float())
        budgets = self._budgets(count, keep, whole, trace.patches)
        return listed(real & (rank_within(scores, tile) < budgets.gather(1, tile)), keep)

    def _budgets(self, count: Float[Tensor, "batch tile"], keep: int, whole: int, patches: int) -> Tensor:
        """Returns how many patches to keep of the whole image, and then of each tile.

        Args:
            count: Number of strong patches of each tile.
            keep: The whole budget.
            whole: Number of patches of the whole image.
            patches: Number of patches of all views.
        """
        first = max(1, min(int(keep * self.alpha), whole))
        share = count / count.sum(1, keepdim=True).clamp(min=1)  # float32, as in the authors' code
        others = (share * min(keep - first, patches - whole)).long()
        return torch.cat([torch.full_like(others[:, :1], first), others], 1)

    def _shown(self, trace: Trace, tiles: Int[Tensor, " every"]) -> Int[Tensor, " patch"]:
        """Returns the tile that each patch of the whole image counts for."""
        base, enlarged = trace.views
        if self.as_published:
            return 1 + torch.arange(base.patches) * int(tiles.max()) // base.patches
        row, column = torch.arange(base.rows) * enlarged.rows, torch.arange(base.columns) * enlarged.columns
        place = row[:, None] // base.rows * enlarged.columns + column // base.columns
        return tiles[base.patches + place.flatten()]


def _is_enlarged(views: Views, tiles: Int[Tensor, " every"]) -> bool:
    """Returns whether the views are a whole image, tile 0, and an enlargement of several tiles."""
    return len(views) == 2 and not bool(tiles[: views[0].patches].any()) and int(tiles.max()) > 1
