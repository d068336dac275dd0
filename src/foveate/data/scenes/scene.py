"""Synthetic images in which nothing that is asked about stands out.

Nearly every patch of an image shows ink of one of six colours on a muted ground:

- *things*, 4 to 6, each one patch or 2 x 2: twelve kinds, which differ in shape alone; captions name them;
- *details*: two strings of 3 to 5 characters, one of them right of a thing, and a digit right of two other things; they
  are asked about, but never named in a caption;
- *decoys*: scrambled things and rows of scrambled characters, which have no name;
- *clutter*: random strokes with the ink area and outline length of things and characters.

A scene is a pure function of (seed, split, index, grid): splits draw from disjoint random streams, and a prefix of a
split never depends on how long the split is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator, default_rng

from foveate.data.scenes import tiles
from foveate.data.scenes.bitmaps import COLOURS, DIGITS, KINDS, LETTERS, character_bitmap, kind_bitmaps
from foveate.data.scenes.tiles import PATCH

Split = Literal["train", "search", "test", "confirm"]
SPLITS: tuple[Split, ...] = get_args(Split)
GRID = 12  # patches of an image's edge
GRIDS = (12, 16)
IMAGE_SIZE = GRID * PATCH


class Role(IntEnum):
    """Content of a patch."""

    THING = 0
    STRING = 1
    DIGIT = 2
    DECOY = 3
    CLUTTER = 4
    GROUND = 5


@dataclass(frozen=True)
class Text:
    """A string in a row, one character per patch; a digit beside a thing is a string of length one."""

    characters: str
    colour: str
    bold: bool
    patches: tuple[int, ...]

    @property
    def spelled(self) -> str:
        return " ".join(self.characters)

    @property
    def weight(self) -> str:
        return "bold" if self.bold else "thin"


@dataclass(frozen=True)
class Thing:
    """A thing that captions name.

    Attributes:
        kind: A key of `KINDS`.
        colour: A key of `COLOURS`; things may share it.
        row, column: Its upper left patch.
        side: Its edge in patches, 1 or 2.
        patches: All its patches.
        beside: The digit or string on its right.
    """

    kind: str
    colour: str
    row: int
    column: int
    side: int
    patches: tuple[int, ...]
    beside: Text | None = None

    @property
    def size(self) -> str:
        return "large" if self.side == 2 else "small"

    @property
    def centre(self) -> tuple[float, float]:
        return self.row + self.side / 2, self.column + self.side / 2


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with its contents.

    Attributes:
        things: What captions name.
        strings: The free string, then the one beside a thing; their colours differ.
        pixels: The image, (edge, edge, 3) uint8.
        roles: `Role` of each patch, (grid^2,) int8.
        parts: Number of the thing, string, digit, decoy or piece of clutter that a patch belongs to, (grid^2,) int16.
    """

    things: tuple[Thing, ...]
    strings: tuple[Text, Text]
    pixels: np.ndarray
    roles: np.ndarray
    parts: np.ndarray

    @property
    def grid(self) -> int:
        return len(self.pixels) // PATCH

    def quadrant(self, patches: Sequence[int]) -> tuple[str, str]:
        """Returns "upper" or "lower" and "left" or "right" for the middle of some patches."""
        rows, columns = np.divmod(np.asarray(patches), self.grid)
        middle = (self.grid - 1) / 2
        return "upper" if rows.mean() < middle else "lower", "left" if columns.mean() < middle else "right"

    def direction(self, one: Thing, other: Thing) -> str:
        """Returns where one thing is, seen from another; differences below one patch are left out."""
        down, right = (a - b for a, b in zip(one.centre, other.centre, strict=True))
        vertical = ("above" if down < 0 else "below") if abs(down) >= 1 else ""
        horizontal = ("left" if right < 0 else "right") if abs(right) >= 1 else ""
        return f"{vertical} {horizontal}".strip()

    def masks(self, regions: Sequence[Sequence[int]]) -> np.ndarray:
        """Returns the pixels of each region, which is given by its patches, (region, edge, edge) bool."""
        masks = np.zeros((len(regions), self.grid**2), bool)
        for mask, patches in zip(masks, regions, strict=True):
            mask[list(patches)] = True
        return masks.reshape(-1, self.grid, self.grid).repeat(PATCH, 1).repeat(PATCH, 2)


def stream(split: Split, index: int, seed: int = 0, *more: int) -> Generator:
    """Returns the random stream of one scene, disjoint between splits, indices and seeds."""
    return default_rng([seed, SPLITS.index(split), index, *more])


def make_scene(split: Split, index: int, seed: int = 0, grid: int = GRID) -> Scene:
    """Draws scene `index` of a split, with `grid` by `grid` patches."""
    return Drawing(stream(split, index, seed), grid).scene()


_LARGE_DECOYS, _LARGE_CLUTTER, _SMALL_DECOYS, _DECOY_ROWS = 4, 3, 14, 3  # in 12 x 12 patches
_GROUND = 0.08  # share of the remaining patches that have no ink
_LIGHT, _TINT = (0.75, 1.05), 0.04  # how the colour of ink varies
_OPACITY, _NOISE = 0.9, 0.035
_STRING_LENGTHS = (3, 4, 5)


class Drawing:
    """An image in the making: `_put` claims patches and gives them ink, a colour, a role and a part number."""

    def __init__(self, rng: Generator, grid: int) -> None:
        self.rng, self.grid = rng, grid
        self.roles = np.full((grid, grid), -1, np.int8)
        self.parts = np.full((grid, grid), -1, np.int16)
        self.ink = np.zeros((grid, grid, PATCH, PATCH), np.float32)
        self.colours = np.zeros((grid, grid, 3), np.float32)
        self.count = 0

    def scene(self) -> Scene:
        rng = self.rng
        number, large = int(rng.integers(4, 7)), int(rng.choice((0, 1, 1, 2)))
        kinds, hues = rng.permutation(len(KINDS))[:number], self._thing_hues(number)
        captioned, *numbered = rng.permutation(number)[:3]
        free_hue, beside_hue = rng.permutation(len(COLOURS))[:2]
        things = []
        for i in range(number):
            beside, hue = ("", 0)
            if i == captioned:
                beside, hue = self._characters(), int(beside_hue)
            elif i in numbered:
                beside, hue = str(rng.choice(list(DIGITS))), int(rng.integers(len(COLOURS)))
            things.append(self._thing(int(kinds[i]), int(hues[i]), 2 if i < large else 1, beside, hue))
        free = self._characters()
        strings = self._text(free, int(free_hue), *self._place(1, len(free))), things[captioned].beside
        self.add_distractors()
        return Scene(tuple(things), strings, self._rendered(), self.roles.ravel(), self.parts.ravel())

    def _thing_hues(self, number: int) -> np.ndarray:
        """Draws colours of things, at least one of which occurs once."""
        while True:
            hues = self.rng.integers(len(COLOURS), size=number)
            if (np.bincount(hues) == 1).any():
                return hues

    def _characters(self) -> str:
        return "".join(self.rng.choice(list(LETTERS), int(self.rng.choice(_STRING_LENGTHS))))

    def _thing(self, kind: int, hue: int, side: int, beside: str, beside_hue: int) -> Thing:
        row, column = self._place(side, side + len(beside))
        patches = self._put(row, column, tiles.placed(kind_bitmaps()[kind], side, self.rng), hue, Role.THING)
        text = self._text(beside, beside_hue, row, column + side) if beside else None
        return Thing(list(KINDS)[kind], list(COLOURS)[hue], row, column, side, patches, text)

    def _text(self, characters: str, hue: int, row: int, column: int) -> Text:
        bold = bool(self.rng.random() < 0.5)
        bitmaps = [tiles.placed(character_bitmap(character, bold), 1, self.rng) for character in characters]
        role = Role.DIGIT if characters in DIGITS else Role.STRING
        patches = self._put(row, column, np.concatenate(bitmaps, 1), hue, role)
        return Text(characters, list(COLOURS)[hue], bold, patches)

    def add_distractors(self) -> None:
        """Fills the free patches with decoys, clutter and bare ground."""
        rng, crowding = self.rng, (self.grid / GRID) ** 2
        for _ in range(round(_LARGE_DECOYS * crowding)):
            self._put_if_free(_drawn(tiles.large_decoys(), rng), Role.DECOY)
        for _ in range(round(_LARGE_CLUTTER * crowding)):
            self._put_if_free(tiles.placed(_drawn(tiles.clutter(), rng), 2, rng), Role.CLUTTER)
        for _ in range(round(_DECOY_ROWS * crowding)):
            length = int(rng.choice(_STRING_LENGTHS))
            row = np.concatenate([_drawn(tiles.character_decoys(), rng) for _ in range(length)], 1)
            self._put_if_free(row, Role.DECOY)
        self._fill(round(_SMALL_DECOYS * crowding))

    def _put_if_free(self, sheet: np.ndarray, role: Role) -> None:
        place = self._free_place(sheet.shape[0] // PATCH, sheet.shape[1] // PATCH)
        if place is not None:
            self._put(*place, sheet, int(self.rng.integers(len(COLOURS))), role)

    def _fill(self, decoys: int) -> None:
        """Fills all remaining patches at once with small decoys, clutter and bare ground."""
        rng = self.rng
        rest = rng.permutation(np.flatnonzero(self.roles < 0))
        roles = np.where(rng.random(len(rest)) < _GROUND, Role.GROUND, Role.CLUTTER)
        roles[:decoys] = Role.DECOY
        sheets = tiles.small_clutter()[rng.integers(len(tiles.small_clutter()), size=len(rest))]
        small = tiles.small_decoys()[rng.integers(len(tiles.small_decoys()), size=len(rest))]
        sheets[:decoys] = small[:decoys]
        sheets[roles == Role.GROUND] = 0
        hues = rng.integers(len(COLOURS), size=len(rest))
        tint = rng.normal(0, _TINT, (len(rest), 3))
        self.ink.reshape(-1, PATCH, PATCH)[rest] = sheets
        self.colours.reshape(-1, 3)[rest] = _palette()[hues] * rng.uniform(*_LIGHT, (len(rest), 1)) + tint
        self.roles.ravel()[rest] = roles
        self.parts.ravel()[rest] = self.count + np.arange(len(rest))

    def _place(self, height: int, width: int) -> tuple[int, int]:
        place = self._free_place(height, width)
        if place is None:
            raise RuntimeError(f"no free place of {height} x {width} patches")
        return place

    def _free_place(self, height: int, width: int) -> tuple[int, int] | None:
        """Draws the upper left patch of a free rectangle."""
        claimed = np.zeros((self.grid + 1, self.grid + 1), np.int32)
        claimed[1:, 1:] = (self.roles >= 0).cumsum(0).cumsum(1)
        low, high = claimed[: -height or None], claimed[height:]
        inside = high[:, width:] - low[:, width:] - high[:, :-width] + low[:, :-width]
        places = np.flatnonzero(inside == 0)
        if not len(places):
            return None
        row, column = divmod(int(places[self.rng.integers(len(places))]), inside.shape[1])
        return row, column

    def _put(self, row: int, column: int, sheet: np.ndarray, hue: int, role: Role) -> tuple[int, ...]:
        height, width = sheet.shape[0] // PATCH, sheet.shape[1] // PATCH
        window = slice(row, row + height), slice(column, column + width)
        self.ink[window] = sheet.reshape(height, PATCH, width, PATCH).transpose(0, 2, 1, 3)
        self.colours[window] = ink_colour(hue, self.rng)
        self.roles[window], self.parts[window] = role, self.count
        self.count += 1
        return tuple((row + i) * self.grid + column + j for i in range(height) for j in range(width))

    def _rendered(self) -> np.ndarray:
        """Returns ink over smooth colour clouds, with noise, (edge, edge, 3) uint8."""
        return noisy(self.painted(clouds(self.rng, self.grid * PATCH)), self.rng)

    def painted(self, ground: np.ndarray) -> np.ndarray:
        """Returns a ground of `clouds` with the ink of all patches, (edge, edge, 3)."""
        ink = self.ink.transpose(0, 2, 1, 3).reshape(*ground.shape[:2])
        return inked(ground, ink, self.colours.repeat(PATCH, 0).repeat(PATCH, 1))


def clouds(rng: Generator, edge: int) -> np.ndarray:
    """Draws smooth colour clouds, (edge, edge, 3)."""
    spread = _bilinear(edge)
    tinted = np.einsum("yi,ijc,xj->yxc", spread, rng.random((5, 5, 3), np.float32), spread, optimize=True)
    return rng.uniform(0.25, 0.5) + 0.3 * (tinted.mean(-1, keepdims=True) - 0.5) + 0.2 * (tinted - 0.5)


def inked(ground: np.ndarray, ink: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Returns a ground with ink of some colours: (height, width, 3), (height, width) and (height, width, 3) or (3,)."""
    return ground + _OPACITY * ink[..., None] * (colours - ground)


def noisy(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Returns an image or several with noise, (..., height, width, 3) uint8."""
    image = image + rng.standard_normal(image.shape, np.float32) * _NOISE
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def ink_colour(hue: int, rng: Generator) -> np.ndarray:
    """Draws the colour of ink of a hue, (3,)."""
    return _palette()[hue] * rng.uniform(*_LIGHT) + rng.normal(0, _TINT, 3)


def _drawn(pool: np.ndarray, rng: Generator) -> np.ndarray:
    return pool[rng.integers(len(pool))]


@cache
def _palette() -> np.ndarray:
    return np.asarray(list(COLOURS.values()), np.float32)


@cache
def _bilinear(edge: int, knots: int = 5) -> np.ndarray:
    """Returns the weights, (edge, knots), that interpolate `knots` values along an edge."""
    weights = np.zeros((edge, knots), np.float32)
    position = (np.arange(edge) + 0.5) / edge * (knots - 1)
    left = np.minimum(position.astype(int), knots - 2)
    rows = np.arange(edge)
    weights[rows, left], weights[rows, left + 1] = 1 - (position - left), position - left
    return weights
