"""Training images: drawn once per seed and kept on disk, because drawing takes as long as a training step."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from foveate.core.progress import bar
from foveate.core.storage import atomic_write
from foveate.data.scenes.scene import Scene, Text, Thing, make_scene
from foveate.reference.architecture import PIXEL_MEAN, PIXEL_STD

HELD_OUT = 10_000_000  # first index of the validation images of the `train` split


@dataclass(frozen=True)
class Images:
    """Scenes of the `train` split.

    Attributes:
        pixels: (image, edge, edge, 3) uint8.
        roles: `Role` of each patch, (image, patch) int8.
        parts: Part of each patch, (image, patch) int16.
        contents: Things and strings of each image as plain values.
    """

    pixels: Tensor
    roles: Tensor
    parts: Tensor
    contents: list[tuple]

    def __len__(self) -> int:
        return len(self.contents)

    def first(self, count: int) -> "Images":
        """Returns the first `count` images."""
        return Images(self.pixels[:count], self.roles[:count], self.parts[:count], self.contents[:count])

    def scene(self, index: int) -> Scene:
        things, free, captioned = self.contents[index]
        things = tuple(_thing(values) for values in things)
        return Scene(
            things,
            (Text(*free), things[captioned].beside),
            self.pixels[index].numpy(),
            self.roles[index].numpy(),
            self.parts[index].numpy(),
        )


def training_images(count: int, seed: int, out: Path) -> Images:
    """Returns the first `count` training images of a seed, which are drawn once and kept in `out`."""
    path = out / f"images-{count}.tensors"
    if not path.exists():
        loader = DataLoader(_Drawn(range(count), seed), batch_size=256, num_workers=2, collate_fn=list)
        with atomic_write(path) as unfinished:
            torch.save(_columns(scene for batch in bar(loader, "batch", "drawing") for scene in batch), unfinished)
    return Images(**torch.load(path, mmap=True, weights_only=True))


def held_out_images(count: int, seed: int) -> Images:
    """Returns validation images of a seed."""
    return Images(**_columns(make_scene("train", HELD_OUT + index, seed) for index in range(count)))


def normalised(pixels: Tensor) -> Tensor:
    """Returns (image, edge, edge, 3) uint8 pixels as (image, 3, edge, edge) float32, normalized as by the processor."""
    return ((pixels.float() / 255 - PIXEL_MEAN) / PIXEL_STD).permute(0, 3, 1, 2).contiguous()


class _Drawn(Dataset):
    def __init__(self, indices: range, seed: int) -> None:
        self.indices, self.seed = indices, seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Scene:
        return make_scene("train", self.indices[item], self.seed)


def _columns(scenes: Iterator[Scene]) -> dict:
    pixels, roles, parts, contents = zip(*((s.pixels, s.roles, s.parts, _values(s)) for s in scenes), strict=True)
    arrays = {"pixels": pixels, "roles": roles, "parts": parts}
    return {name: torch.from_numpy(np.stack(rows)) for name, rows in arrays.items()} | {"contents": list(contents)}


def _values(scene: Scene) -> tuple:
    """Returns things and strings as plain values, so that reading a file of them cannot run code."""
    free, beside = scene.strings
    things = tuple(
        (t.kind, t.colour, t.row, t.column, t.side, t.patches, None if t.beside is None else _text_values(t.beside))
        for t in scene.things
    )
    return things, _text_values(free), [t.beside for t in scene.things].index(beside)


def _text_values(text: Text) -> tuple:
    return text.characters, text.colour, text.bold, text.patches


def _thing(values: tuple) -> Thing:
    *own, beside = values
    return Thing(*own, beside=None if beside is None else Text(*beside))
