"""Scenes over time: things, texts and decoys move, appear, vanish and change colour before clutter that stays.

A clip has eight frames, in four parts of two. Its background is the clutter of a scene, the same in every frame. Before
it are *tracks*, each shown in a few frames that follow each other:

- *things*, 3 to 6, no two of which appear in the same frame; two of them change their colour;
- *texts*, two letters, each shown in one part only, in different parts;
- *decoys*, scrambled things without a name. Things and decoys are always eight together, so that the number of patches
  that change tells nothing about the number of things.

Whatever moves covers whole patches, as in scenes, so a patch never shows two tracks. A moving scene is a pure function
of (seed, split, index, grid).
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, default_rng

from foveate.data.scenes import tiles
from foveate.data.scenes.bitmaps import COLOURS, KINDS, LETTERS, character_bitmap, kind_bitmaps
from foveate.data.scenes.scene import GRID, Drawing, Role, Split, clouds, ink_colour, inked, noisy, stream
from foveate.data.scenes.tiles import PATCH

FRAMES = 8
PARTS = 4
STEP_SECONDS = 0.5
"""Time between two frames."""
_THINGS, _TRACKS = (3, 4, 5, 6), 8
_DURATIONS = (2, 6)  # frames of a thing or decoy: at least, and less than
_MOVING, _LARGE = 0.7, 0.5  # shares of the tracks
_STEP = 3  # patches that a track moves between two frames, at most
_TRIES = 10_000

Place = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Track:
    """A thing, text or decoy over time.

    Attributes:
        role: `Role.THING`, `Role.STRING` or `Role.DECOY`.
        name: Kind of a thing, letter of a text; empty for a decoy.
        side: Its edge in patches, 1 or 2.
        start: The first frame that shows it.
        places: Its upper left patch as row and column, in the frames from `start` on that show it.
        colours: Keys of `COLOURS` in the same frames.
        sheet: Its ink, (edge, edge) of 0 and 1.
        inks: The colour of its ink in the same frames, (frame, 3).
    """

    role: Role
    name: str
    side: int
    start: int
    places: tuple[Place, ...]
    colours: tuple[str, ...]
    sheet: np.ndarray
    inks: np.ndarray

    @property
    def frames(self) -> range:
        """Numbers of the frames that show it."""
        return range(self.start, self.start + len(self.places))

    @property
    def part(self) -> int:
        """Number of the part in which it appears, from 0."""
        return self.start * PARTS // FRAMES

    def window(self, frame: int) -> tuple[slice, slice]:
        """Returns the pixels that it covers in a frame that shows it: rows and columns."""
        row, column = self.places[frame - self.start]
        edge = self.side * PATCH
        return slice(row * PATCH, row * PATCH + edge), slice(column * PATCH, column * PATCH + edge)


@dataclass(frozen=True, eq=False)
class MovingScene:
    """A clip with its contents.

    Attributes:
        things: The things in the order in which they appear.
        texts: The two letters.
        decoys: Tracks that no question is about.
        ground: Colour clouds, (edge, edge, 3).
        background: The same with the ink of clutter, (edge, edge, 3).
        seed: Random seed of the noise.
    """

    things: tuple[Track, ...]
    texts: tuple[Track, ...]
    decoys: tuple[Track, ...]
    ground: np.ndarray
    background: np.ndarray
    seed: int

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Things, texts and decoys."""
        return (*self.things, *self.texts, *self.decoys)

    def pixels(self, without: Track | None = None) -> np.ndarray:
        """Returns the frames, all of them and perhaps without one track, (frame, edge, edge, 3) uint8."""
        frames = np.repeat(self.background[None], FRAMES, 0)
        for track in self.tracks:
            for frame in track.frames if track is not without else ():
                window = track.window(frame)
                frames[frame][window] = inked(self.ground[window], track.sheet, track.inks[frame - track.start])
        return noisy(frames, default_rng(self.seed))

    def mask(self, track: Track) -> np.ndarray:
        """Returns the pixels that show ink of a track, or that would show clutter without it, (frame, edge, edge)."""
        mask = np.zeros((FRAMES, *self.ground.shape[:2]), bool)
        clutter = (self.background != self.ground).any(-1)
        for frame in track.frames:
            window = track.window(frame)
            mask[frame][window] = (track.sheet > 0) | clutter[window]
        return mask


def make_moving_scene(split: Split, index: int, seed: int = 0, grid: int = GRID) -> MovingScene:
    """Draws clip `index` of a split, with frames of `grid` by `grid` patches."""
    return _MovingDrawing(stream(split, index, seed, 2), grid).scene()


class _MovingDrawing:
    """A clip in the making; `free` has the patches of each frame that no track covers yet."""

    def __init__(self, rng: Generator, grid: int) -> None:
        self.rng, self.grid = rng, grid
        self.free = np.ones((FRAMES, grid, grid), bool)

    def scene(self) -> MovingScene:
        rng = self.rng
        number = int(rng.choice(_THINGS))
        hues = [int(hue) for hue in rng.permutation(len(COLOURS))]
        things = self._things(number, hues)
        decoys = tuple(self._decoy(hues) for _ in range(_TRACKS - number))
        texts = self._texts()
        drawing = Drawing(rng, self.grid)
        drawing.add_distractors()
        ground = clouds(rng, self.grid * PATCH)
        return MovingScene(things, texts, decoys, ground, drawing.painted(ground), int(rng.integers(2**32)))

    def _things(self, number: int, hues: list[int]) -> tuple[Track, ...]:
        """Draws things of three hues: two change, from or to the same one; one more has a hue that another changes."""
        rng = self.rng
        kinds = rng.permutation(len(KINDS))[:number]
        starts = np.sort(rng.permutation(FRAMES - 1)[:number])  # each is seen twice at least
        common, one, other = hues[:3]
        looks = [rng.permutation([common, one]), rng.permutation([common, other]), [(one, other)[rng.integers(2)]] * 2]
        looks += [[hues[rng.integers(3)]] * 2 for _ in range(number - 3)]
        order = rng.permutation(number)
        return tuple(
            self._moving(Role.THING, int(kind), int(start), [int(hue) for hue in looks[i]])
            for kind, start, i in zip(kinds, starts, order, strict=True)
        )

    def _decoy(self, hues: list[int]) -> Track:
        look = [hues[i] for i in self.rng.integers(0, 3, 2)]
        return self._moving(Role.DECOY, -1, int(self.rng.integers(FRAMES - 1)), look)

    def _moving(self, role: Role, kind: int, start: int, look: list[int]) -> Track:
        """Draws a thing, or a decoy, that changes from one hue to another between two of its frames."""
        rng = self.rng
        length = min(int(rng.integers(*_DURATIONS)), FRAMES - start)
        side = 2 if rng.random() < _LARGE else 1
        places = self._path(start, length, side, rng.random() < _MOVING)
        change = int(rng.integers(1, length))
        inks = [ink_colour(hue, rng) for hue in look]
        if role == Role.THING:
            sheet = tiles.placed(kind_bitmaps()[kind], side, rng)
        else:
            pool = tiles.large_decoys() if side == 2 else tiles.small_decoys()
            sheet = pool[rng.integers(len(pool))]
        second = [int(i >= change and look[0] != look[1]) for i in range(length)]
        colours = tuple(list(COLOURS)[look[i]] for i in second)
        name = list(KINDS)[kind] if role == Role.THING else ""
        return Track(role, name, side, start, places, colours, sheet, np.stack([inks[i] for i in second]))

    def _texts(self) -> tuple[Track, ...]:
        rng, length = self.rng, FRAMES // PARTS
        texts = []
        for part, hue in zip(rng.permutation(PARTS)[:2], rng.permutation(len(COLOURS))[:2], strict=True):
            letter, bold = str(rng.choice(list(LETTERS))), bool(rng.random() < 0.5)
            start = int(part) * length
            places = self._path(start, length, 1, moving=False)
            sheet = tiles.placed(character_bitmap(letter, bold), 1, rng)
            inks = np.repeat(ink_colour(int(hue), rng)[None], length, 0)
            texts.append(Track(Role.STRING, letter, 1, start, places, (list(COLOURS)[hue],) * length, sheet, inks))
        return tuple(texts)

    def _path(self, start: int, length: int, side: int, moving: bool) -> tuple[Place, ...]:
        """Draws a straight path over free patches that does not end at the middle of either side, and claims it."""
        for _ in range(_TRIES):
            ends = self.rng.integers(0, self.grid - side + 1, (2, 2))
            ends[0] = ends[0] if moving else ends[1]
            far = (abs(ends[1] - ends[0]) > _STEP * (length - 1)).any()
            if far or (abs(ends[1] + side / 2 - self.grid / 2) < 1).any():
                continue
            cells = np.linspace(ends[0], ends[1], length).round().astype(int).tolist()
            patches = [
                (frame, slice(row, row + side), slice(column, column + side))
                for frame, (row, column) in enumerate(cells, start)
            ]
            if all(self.free[at].all() for at in patches):
                for at in patches:
                    self.free[at] = False
                return tuple((row, column) for row, column in cells)
        raise RuntimeError(f"no free path of {length} frames for {side} x {side} patches")
