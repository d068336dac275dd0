"""Synthetic images with known contents and with a mask of each thing.

A scene holds two to four coloured shapes and one or two signs with a character, on a textured background with clutter.
Colours are distinct over all things of a scene and kinds over its shapes, so that "the star" and "the red sign" each
name one thing. A scene is a pure function of (seed, split, index): splits draw from disjoint random streams, and a
prefix of a split never depends on how long the split is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator, default_rng

Split = Literal["train", "search", "test", "confirm"]
SPLITS: tuple[Split, ...] = get_args(Split)

IMAGE_SIZE = 96
SIGN = "sign"
COLOURS = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.62, 0.15),
    "blue": (0.15, 0.25, 0.90),
    "yellow": (0.92, 0.86, 0.12),
    "purple": (0.55, 0.12, 0.72),
    "orange": (0.97, 0.52, 0.06),
    "cyan": (0.15, 0.82, 0.86),
}
KINDS = ("circle", "square", "triangle", "star", "cross", "ring")
# 5 x 7 bitmaps, one row per string: drawn here so that no installed font changes the data.
GLYPHS = {
    "A": (".###.", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "C": (".####", "#....", "#....", "#....", "#....", "#....", ".####"),
    "E": ("#####", "#....", "#....", "####.", "#....", "#....", "#####"),
    "H": ("#...#", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "K": ("#...#", "#..#.", "#.#..", "##...", "#.#..", "#..#.", "#...#"),
    "T": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."),
    "X": ("#...#", "#...#", ".#.#.", "..#..", ".#.#.", "#...#", "#...#"),
    "2": (".###.", "#...#", "....#", "...#.", "..#..", ".#...", "#####"),
    "4": ("#..#.", "#..#.", "#..#.", "#####", "...#.", "...#.", "...#."),
    "7": ("#####", "....#", "...#.", "...#.", "..#..", "..#..", "..#.."),
}
SMALL_RADII, LARGE_RADII, SIGN_RADII = (8, 9), (12, 13, 14), (9, 10)
SHAPE_TURNS, SIGN_TURNS = (-20, -8, 8, 20), (-4, -2, 2, 4)  # degrees

_WINDOW = 32  # pixels: contains the largest thing at any rotation
_CLUTTER = 10  # marks per image


@dataclass(frozen=True)
class Thing:
    """One drawn thing; `x`, `y` and `radius` are in pixels, `turn` in degrees, `glyph` is empty except for signs."""

    kind: str
    colour: str
    x: int
    y: int
    radius: int
    turn: int
    glyph: str = ""

    @property
    def is_shape(self) -> bool:
        return self.kind != SIGN

    @property
    def size(self) -> str:
        return "large" if self.radius >= LARGE_RADII[0] else "small"

    @property
    def quadrant(self) -> tuple[str, str]:
        half = IMAGE_SIZE / 2
        return "upper" if self.y < half else "lower", "left" if self.x < half else "right"

    @property
    def margin(self) -> float:
        """Distance in pixels from the centre of the thing to the nearer midline of the image."""
        return min(abs(self.x - IMAGE_SIZE / 2), abs(self.y - IMAGE_SIZE / 2))


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with its contents.

    Attributes:
        things: The shapes, followed by the signs.
        pixels: The image, (96, 96, 3) uint8.
        owner: Index in `things` of the thing that a pixel shows, -1 for background and clutter, (96, 96) int8.
    """

    things: tuple[Thing, ...]
    pixels: np.ndarray
    owner: np.ndarray

    @property
    def shapes(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.things if thing.is_shape)

    @property
    def signs(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.things if not thing.is_shape)

    def masks(self, indices: Sequence[int]) -> np.ndarray:
        """Returns the pixels in which each of the things is visible, (thing, 96, 96) bool."""
        return self.owner == np.asarray(indices, np.int8)[:, None, None]


def stream(split: Split, index: int, seed: int = 0, *more: int) -> Generator:
    """Returns the random stream of one scene, disjoint between splits, indices and seeds."""
    return default_rng([seed, SPLITS.index(split), index, *more])


def make_scene(split: Split, index: int, seed: int = 0) -> Scene:
    """Draws scene `index` of a split."""
    rng = stream(split, index, seed)
    things = _layout(rng)
    return Scene(things, *_render(things, rng))


def _layout(rng: Generator) -> tuple[Thing, ...]:
    shapes, signs = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    colours = rng.permutation(list(COLOURS))
    kinds = [*rng.permutation(KINDS)[:shapes], *[SIGN] * signs]
    glyphs = [*[""] * shapes, *rng.permutation(list(GLYPHS))[:signs]]
    things: list[Thing] = []
    for kind, colour, glyph in zip(kinds, colours, glyphs, strict=False):
        if kind == SIGN:
            radius, turn = int(rng.choice(SIGN_RADII)), int(rng.choice(SIGN_TURNS))
        else:
            radius = int(rng.choice(SMALL_RADII if rng.random() < 0.5 else LARGE_RADII))
            turn = int(rng.choice(SHAPE_TURNS))
        x, y = _position(things, radius, rng)
        things.append(Thing(str(kind), str(colour), x, y, radius, turn, str(glyph)))
    return tuple(things)


def _position(things: list[Thing], radius: int, rng: Generator, candidates: int = 60) -> tuple[int, int]:
    """Draws a position that touches no earlier thing, or the candidate that overlaps least."""
    border = radius + 1
    spots = rng.integers(border, IMAGE_SIZE - border + 1, (candidates, 2))
    gaps = np.full(candidates, 1.0)
    for other in things:
        distance = np.abs(spots - (other.x, other.y)).max(1) - (radius + other.radius)
        gaps = np.minimum(gaps, distance)
    x, y = spots[int(np.argmax(gaps))]
    return int(x), int(y)


def _render(things: tuple[Thing, ...], rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    pad = _WINDOW // 2
    side = IMAGE_SIZE + _WINDOW
    canvas = np.zeros((side, side, 3), np.float32)
    canvas[pad:-pad, pad:-pad] = _background(rng)
    owner = np.full((side, side), -1, np.int8)
    palette = np.asarray(list(COLOURS.values()), np.float32)
    for _ in range(_CLUTTER):
        mark = _clutter_marks()[rng.integers(6)]
        row, column = rng.integers(0, IMAGE_SIZE - 6, 2) + pad
        colour = palette[rng.integers(len(palette))] * rng.uniform(0.5, 1.0)
        _blend(canvas[row : row + 6, column : column + 6], mark, colour)
    for index, thing in enumerate(things):
        alpha = _outline(thing.kind, thing.radius, thing.turn)
        colour = np.clip(COLOURS[thing.colour] + rng.normal(0, 0.05, 3), 0, 1).astype(np.float32)
        window = slice(thing.y, thing.y + _WINDOW), slice(thing.x, thing.x + _WINDOW)
        _blend(canvas[window], alpha, colour)
        if thing.glyph:
            ink = np.float32(0.03 if colour.mean() > 0.45 else 0.97)
            _blend(canvas[window], _glyph(thing.glyph), np.full(3, ink))
        owner[window][alpha > 0.5] = index
    image = canvas[pad:-pad, pad:-pad] * rng.uniform(0.85, 1.1)
    image += rng.standard_normal(image.shape, np.float32) * 0.035
    pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels, owner[pad:-pad, pad:-pad].copy()


def _blend(window: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    window += alpha[..., None] * (colour.astype(np.float32) - window)


def _background(rng: Generator) -> np.ndarray:
    """Draws smooth colour clouds with a faint grating, (96, 96, 3) float32 around mid grey."""
    coarse = rng.random((5, 5, 3)).astype(np.float32)
    spread = _bilinear(5)
    clouds = np.einsum("yi,ijc,xj->yxc", spread, coarse, spread, optimize=True)
    base = rng.uniform(0.25, 0.6) + 0.30 * (clouds.mean(-1, keepdims=True) - 0.5) + 0.22 * (clouds - 0.5)
    angle, frequency, strength = rng.uniform(0, math.pi), rng.uniform(0.2, 1.3), rng.uniform(0, 0.08)
    axis = np.arange(IMAGE_SIZE, dtype=np.float32)
    wave = np.sin(frequency * (math.cos(angle) * axis[None, :] + math.sin(angle) * axis[:, None]))
    return (base + strength * wave[..., None]).astype(np.float32)


@lru_cache
def _bilinear(knots: int) -> np.ndarray:
    """Returns the weights, (96, knots), that interpolate `knots` values along an edge."""
    weights = np.zeros((IMAGE_SIZE, knots), np.float32)
    position = (np.arange(IMAGE_SIZE) + 0.5) / IMAGE_SIZE * (knots - 1)
    left = np.minimum(position.astype(int), knots - 2)
    rows = np.arange(IMAGE_SIZE)
    weights[rows, left], weights[rows, left + 1] = 1 - (position - left), position - left
    return weights


@cache
def _outline(kind: str, radius: int, turn: int, oversample: int = 4) -> np.ndarray:
    """Returns the coverage, (32, 32) float32, of a centred shape, averaged over `oversample`^2 points per pixel."""
    grid = (np.arange(_WINDOW * oversample) + 0.5) / oversample - _WINDOW / 2
    x, y = np.meshgrid(grid, grid)
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    inside = _inside(kind, (x * cos + y * sin) / radius, (y * cos - x * sin) / radius)
    blocks = inside.reshape(_WINDOW, oversample, _WINDOW, oversample)
    return blocks.mean((1, 3)).astype(np.float32)


def _inside(kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    distance = np.hypot(u, v)
    match kind:
        case "circle":
            return distance < 1
        case "square" | "sign":
            return np.maximum(np.abs(u), np.abs(v)) < 0.9
        case "triangle":
            return (v < 0.8) & (np.abs(u) < (v + 1) / 1.8)
        case "star":
            step = 2 * math.pi / 5
            theta = np.arctan2(u, -v)
            folded = np.abs((theta + step / 2) % step - step / 2)
            tip, notch = np.array([1.08, 0.0]), 0.45 * np.array([math.cos(step / 2), math.sin(step / 2)])
            edge = notch - tip
            px, py = distance * np.cos(folded) - tip[0], distance * np.sin(folded) - tip[1]
            return edge[1] * px - edge[0] * py < 0
        case "cross":
            return ((np.abs(u) < 0.34) & (np.abs(v) < 1)) | ((np.abs(v) < 0.34) & (np.abs(u) < 1))
        case "ring":
            return (distance < 1) & (distance > 0.55)
        case _:
            raise ValueError(f"no outline for kind {kind!r}; known: {', '.join((*KINDS, SIGN))}")


@cache
def _glyph(character: str) -> np.ndarray:
    """Returns the bitmap, (32, 32) float32, of a centred character with two pixels per dot."""
    dots = np.array([[dot == "#" for dot in row] for row in GLYPHS[character]], np.float32)
    ink = dots.repeat(2, 0).repeat(2, 1)
    top, left = (_WINDOW - ink.shape[0]) // 2, (_WINDOW - ink.shape[1]) // 2
    sheet = np.zeros((_WINDOW, _WINDOW), np.float32)
    sheet[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return sheet


@lru_cache
def _clutter_marks() -> np.ndarray:
    """Returns six marks, (6, 6, 6) float32: dots, bars and strokes that are relevant to no question."""
    marks = np.zeros((6, 6, 6), np.float32)
    marks[0, 2:4, 2:4] = marks[1, 1:4, 1:4] = 1
    marks[2, 2:4, :] = marks[3, :, 2:4] = 1
    marks[4] = np.eye(6) + 0.7 * np.eye(6, k=-1)
    marks[5] = marks[4][::-1]
    return marks
