"""Tiles of ink: bitmaps placed in patches, decoys that are put together wrongly, and clutter.

The patches of a large decoy are patches of large things, so no function of a single patch tells the two apart. Clutter
has the ink area and the edges of things and characters.
"""

from functools import cache

import numpy as np
from numpy.random import Generator, default_rng

from foveate.data.scenes.bitmaps import SIDE, character_bitmaps, kind_bitmaps

PATCH = 8  # pixels of a patch's edge
_TILES = 600  # different pieces of clutter
_DECOYS = 4000  # of each sort
_CANDIDATES = 20_000
_BUSIER = 1.06, 1.1, 1.22  # ink and edges of clutter against those of its models: large content has fewer per patch
_QUARTERS = (
    *((1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0), (1, 2, 3, 0), (1, 3, 0, 2)),
    *((2, 0, 3, 1), (2, 3, 1, 0), (3, 0, 1, 2), (3, 2, 0, 1)),
)  # the orders of four quarters that leave none in its place
_STROKES = ((0, 1), (1, 0), (1, 1), (1, -1))


def placed(bitmap: np.ndarray, side: int, rng: Generator) -> np.ndarray:
    """Returns a bitmap magnified `side` times, at a random place in `side` by `side` patches."""
    sheet = np.zeros((PATCH * side, PATCH * side), np.float32)
    top, left = rng.integers(0, side + 1, 2)
    size = SIDE * side
    sheet[top : top + size, left : left + size] = _magnified(bitmap, side)
    return sheet


@cache
def small_decoys() -> np.ndarray:
    """Returns scrambled small things, (decoy, 8, 8)."""
    rng = default_rng(22)
    return np.stack([_scrambled(kind_bitmaps(), rng) for _ in range(_DECOYS)])


@cache
def character_decoys() -> np.ndarray:
    """Returns scrambled characters, (decoy, 8, 8)."""
    rng = default_rng(23)
    return np.stack([_scrambled(character_bitmaps(), rng) for _ in range(_DECOYS)])


@cache
def large_decoys() -> np.ndarray:
    """Returns scrambled large things, (decoy, 16, 16)."""
    rng = default_rng(24)
    return np.stack([_scrambled_large(rng) for _ in range(_DECOYS)])


@cache
def small_clutter() -> np.ndarray:
    """Returns clutter of one patch, (tile, 8, 8)."""
    rng = default_rng(21)
    return np.stack([placed(tile, 1, rng) for tile in clutter() for _ in range(4)])


@cache
def clutter() -> np.ndarray:
    """Returns bitmaps of strokes and bars, (tile, 7, 7).

    Each is the one of many random candidates that is most like a thing or character in ink and in edges of either
    direction.
    """
    rng = default_rng(20)
    candidates = np.stack([_strokes(rng) for _ in range(_CANDIDATES)])
    models = np.concatenate([kind_bitmaps(), kind_bitmaps(), character_bitmaps()])
    wanted, found = _ink_and_edges(models) * _BUSIER, _ink_and_edges(candidates)
    free = np.ones(_CANDIDATES, bool)
    chosen = []
    for index in range(_TILES):
        distance = np.abs(found - wanted[index % len(wanted)]).sum(1) + 1e6 * ~free + rng.random(_CANDIDATES)
        chosen.append(int(distance.argmin()))
        free[chosen[-1]] = False
    return candidates[chosen]


def _magnified(bitmaps: np.ndarray, side: int) -> np.ndarray:
    return bitmaps.repeat(side, -2).repeat(side, -1)


def _scrambled(bitmaps: np.ndarray, rng: Generator) -> np.ndarray:
    """Puts quarters of four bitmaps together, none in its place, (8, 8)."""
    half, sheet = PATCH // 2, np.zeros((PATCH, PATCH), np.float32)
    chosen, order = rng.integers(0, len(bitmaps), 4), _QUARTERS[rng.integers(len(_QUARTERS))]
    top, left = rng.integers(0, 2, 2)
    whole = np.zeros((4, PATCH, PATCH), np.float32)
    whole[:, top : top + SIDE, left : left + SIDE] = bitmaps[chosen]
    for bitmap, place, source in zip(whole, range(4), order, strict=True):
        sheet[_quarter(place, half)] = bitmap[_quarter(source, half)]
    return sheet


def _scrambled_large(rng: Generator) -> np.ndarray:
    """Puts patches of four large things together, none in its place, (16, 16)."""
    sheet = np.zeros((2 * PATCH, 2 * PATCH), np.float32)
    order = _QUARTERS[rng.integers(len(_QUARTERS))]
    top, left = rng.integers(0, 3, 2)
    for place, source in enumerate(order):
        whole = np.zeros_like(sheet)
        bitmap = kind_bitmaps()[rng.integers(len(kind_bitmaps()))]
        whole[top : top + 2 * SIDE, left : left + 2 * SIDE] = _magnified(bitmap, 2)
        sheet[_quarter(place, PATCH)] = whole[_quarter(source, PATCH)]
    return sheet


def _quarter(number: int, edge: int) -> tuple[slice, slice]:
    row, column = divmod(number, 2)
    return slice(edge * row, edge * (row + 1)), slice(edge * column, edge * (column + 1))


def _strokes(rng: Generator) -> np.ndarray:
    """Draws a few strokes, and in some tiles a block, (7, 7)."""
    tile = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(rng.integers(2, 5)):
        (row, column), (down, right) = rng.integers(0, SIDE, 2), _STROKES[rng.integers(4)]
        for step in range(rng.integers(3, 7)):
            y, x = row + step * down, column + step * right
            if 0 <= y < SIDE and 0 <= x < SIDE:
                tile[y, x] = 1
    if rng.random() < 0.4:
        row, column = rng.integers(0, 4, 2)
        tile[row : row + 3, column : column + rng.integers(2, 4)] = 1
    return tile


def _ink_and_edges(bitmaps: np.ndarray) -> np.ndarray:
    """Returns ink area, and lengths of horizontal and of vertical edges in dots, (bitmap, 3)."""
    padded = np.pad(bitmaps, ((0, 0), (1, 1), (1, 1)))
    edges = [np.abs(np.diff(padded, axis=axis)).sum((1, 2)) for axis in (1, 2)]
    return np.stack([bitmaps.sum((1, 2)), *edges], 1)
