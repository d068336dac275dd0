"""Budgets of the whole image and its tiles, against loops."""

import numpy as np
import pytest
import torch

from foveate.core.arrangement import Grid
from foveate.core.needs import ClsRows
from foveate.core.trace import PADDING, Trace
from foveate.selectors import TileShares, TopK

WHOLE, ENLARGED = Grid(4, 6), Grid(7, 10)
# 2 x 2 tiles of 4 x 6 patches whose padding, half a row above and a column at both sides, is gone
ROW, COLUMN = np.divmod(np.arange(ENLARGED.patches), ENLARGED.columns)
OWN = 1 + (ROW // 4) * 2 + (COLUMN + 1) // 6
TILES = torch.tensor([0] * WHOLE.patches + OWN.tolist())


def given(batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(batch, 1, 2, len(TILES), generator=generator)
    trace = Trace({ClsRows((0,)): rows}, (WHOLE, ENLARGED), batch, None, TILES)
    return torch.rand(batch, len(TILES), generator=generator), trace


def tile_shown(patch, as_published):
    """The tile that a patch of the whole image counts for."""
    if as_published:
        return 1 + patch // 6  # four runs of six patches
    row, column = divmod(patch, 6)
    return OWN[row * 7 // 4 * 10 + column * 10 // 6]


@pytest.mark.parametrize("as_published", [True, False])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("keep", [1, 2, 17, 40, 90])
def test_budgets_of_tiles_equal_a_count_by_loops(keep, alpha, as_published):
    scores, trace = given()
    found = TileShares(alpha, 0, as_published).select(scores, trace, keep)
    for row in range(3):
        early = trace[ClsRows((0,))][row, 0].sum(0)[:24].numpy()
        strongest = np.argsort(-early, kind="stable")[: int(24 * (1 - alpha))]
        counts = np.bincount([tile_shown(patch, as_published) for patch in strongest], minlength=5)
        first = max(1, min(int(keep * alpha), 24))
        budgets = [first, *(int(count * min(keep - first, 70) / counts.sum() + 1e-6) for count in counts[1:])]
        expected = []
        for tile, budget in enumerate(budgets):
            members = np.flatnonzero(TILES == tile)
            expected += members[np.argsort(-scores[row, members].numpy(), kind="stable")[:budget]].tolist()
        assert found[row][found[row] != PADDING].tolist() == sorted(expected)


@pytest.mark.parametrize(
    "trace",
    [
        Trace({}, (Grid(4, 6),), 2),
        Trace({}, (Grid(4, 6), Grid(4, 6)), 2, None, torch.tensor([0] * 24 + [1] * 24)),
        Trace({}, (Grid(4, 6), Grid(4, 6), Grid(4, 6)), 2, None, torch.arange(72) // 24),
        Trace({}, (Grid(4, 6), Grid(4, 6)), 2),
    ],
    ids=["one image", "two frames", "three frames", "unknown tiles"],
)
def test_without_tiles_of_an_enlargement_the_best_scores_are_kept(trace):
    scores = torch.rand(2, trace.patches, generator=torch.Generator().manual_seed(1))
    assert torch.equal(TileShares().select(scores, trace, 9), TopK().select(scores, trace, 9))


def test_an_image_is_chosen_from_as_it_is_alone():
    scores, trace = given()
    together = TileShares(as_published=False).select(scores, trace, 33)
    for row in range(3):
        alone = TileShares(as_published=False).select(scores[row : row + 1], trace.chosen(torch.tensor([row])), 33)
        assert alone[0].tolist() == together[row][together[row] != PADDING].tolist()
