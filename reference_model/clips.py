"""Training clips: drawn and encoded once per seed in parts, because both take longer than a training step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionModel

from foveate.core.progress import bar
from foveate.core.storage import atomic_write
from foveate.data.scenes.moving import MovingScene, Track, make_moving_scene
from foveate.data.scenes.scene import IMAGE_SIZE, Role
from foveate.reference.architecture import FEATURE_LAYER
from reference_model.images import HELD_OUT, normalised

PART = 250
"""Clips of a part."""
_NOTHING = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 0), np.uint8)  # the size of frames whose pixels are not kept


@dataclass(frozen=True)
class Clips:
    """Clips of the `train` split.

    Attributes:
        features: States of their patches that the language model reads, (clip, frame, patch, width) float16.
        contents: Tracks of each clip as plain values.
    """

    features: Tensor
    contents: list[list[tuple]]

    def __len__(self) -> int:
        return len(self.contents)

    def first(self, count: int) -> "Clips":
        """Returns the first `count` clips."""
        return Clips(self.features[:count], self.contents[:count])

    def scene(self, index: int) -> MovingScene:
        """Returns the tracks of a clip, without pixels."""
        tracks = [_track(*values) for values in self.contents[index]]
        roles = {role: tuple(track for track in tracks if track.role == role) for role in Role}
        return MovingScene(roles[Role.THING], roles[Role.STRING], roles[Role.DECOY], _NOTHING, _NOTHING, 0)


def draw(tower: CLIPVisionModel, parts: int, seed: int, out: Path) -> None:
    """Draws and encodes the first parts of a seed that `out` has not, the held-out part first."""
    for part in bar([-1, *range(parts)], "part", "drawing clips"):
        path = _path(out, part)
        if not path.exists():
            start = HELD_OUT if part < 0 else part * PART
            clips = drawn_clips(tower, range(start, start + PART), seed)
            with atomic_write(path) as unfinished:
                torch.save(vars(clips), unfinished)


def read(parts: int, out: Path) -> list[Clips]:
    """Returns the first parts, which `draw` has made."""
    return [_read(_path(out, part)) for part in range(parts)]


def held_out(out: Path) -> Clips:
    """Returns the clips that are not trained on."""
    return _read(_path(out, -1))


def drawn_clips(tower: CLIPVisionModel, indices: range, seed: int) -> Clips:
    """Returns clips of the `train` split, drawn and encoded."""
    features, contents = [], []
    for index in indices:
        scene = make_moving_scene("train", index, seed)
        features.append(encoded(tower, torch.from_numpy(scene.pixels())))
        contents.append([_values(track) for track in scene.tracks])
    return Clips(torch.stack(features), contents)


@torch.inference_mode()
def encoded(tower: CLIPVisionModel, frames: Tensor) -> Tensor:
    """Returns the states of the patches of frames (frame, edge, edge, 3) uint8, (frame, patch, width) float16."""
    with torch.autocast("cpu", torch.bfloat16):
        states = tower(pixel_values=normalised(frames), output_hidden_states=True).hidden_states
    return states[FEATURE_LAYER][:, 1:].half()


def _path(out: Path, part: int) -> Path:
    return out / ("clips-held-out.tensors" if part < 0 else f"clips-{part}.tensors")


def _read(path: Path) -> Clips:
    return Clips(**torch.load(path, mmap=True, weights_only=True))


def _values(track: Track) -> tuple:
    """Returns a track as plain values, so that reading a file of them cannot run code."""
    return int(track.role), track.name, track.side, track.start, track.places, track.colours


def _track(role: int, *values: Any) -> Track:  # noqa: ANN401 (as stored)
    return Track(Role(role), *values, sheet=_NOTHING, inks=_NOTHING)
