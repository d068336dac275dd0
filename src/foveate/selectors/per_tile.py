"""A budget of its own for each tile."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Need
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.functional.ranking import listed, marked
from foveate.functional.regions import numbered, proportional
from foveate.selectors.top_k import TopK


@dataclass(frozen=True)
class PerTile(Selector):
    """Selector that splits the budget among an image's tiles by their patches and applies another one to each.

    Scores of different tiles are not compared, because each softmax of the tower runs over one tile. If tiles are
    unknown, as inside the language model, every view counts as one. The expected count is that of the other selector
    for the whole image.

    Attributes:
        selector: The selector within a tile.
    """

    selector: Selector = TopK()

    @property
    def needs_keep(self) -> bool:  # type: ignore[override] (a constant elsewhere)
        return self.selector.needs_keep

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.selector.needs

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        tiles = _tiles(trace)
        shares = proportional(tiles.bincount()[None].float(), keep)[0].tolist()
        tile_of = on_device(tiles, scores.device)[on_device(trace.origins, scores.device).clamp(min=0)]
        stays = torch.zeros_like(scores, dtype=torch.bool)
        for tile, share in enumerate(shares):
            if share:
                inside = (tile_of == tile) & (scores > -torch.inf)
                masked = scores.masked_fill(~inside, -torch.inf)
                stays |= marked(self.selector.select(masked, trace, share), scores.shape[1]) & inside
        if 0 in shares:  # all remaining patches of a row may be in tiles without a share
            whole = marked(self.selector.select(scores, trace, keep), scores.shape[1])
            stays |= whole & (scores > -torch.inf) & ~stays.any(1, keepdim=True)
        return listed(stays)

    def expected(self, keep: int, left: int | float, patches: int) -> int | float:
        return self.selector.expected(keep, left, patches)


def _tiles(trace: Trace) -> Int[Tensor, " patch"]:
    """Returns the tile of every patch of the views."""
    if trace.tiles is not None:
        return trace.tiles
    return numbered(torch.arange(trace.patches)[None], trace.views)[0][0]
