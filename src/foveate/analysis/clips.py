"""Kept patches of a video: a contact sheet, tokens per frame over time, and a GIF."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from foveate.analysis.drawing import COLOURS, FAINT, caption, draw_outline, house_style, pixels_of
from foveate.core.arrangement import Arrangement
from foveate.core.errors import DataError
from foveate.core.storage import atomic_write
from foveate.data.clip import Clip
from foveate.data.video import sampled
from foveate.metrics.evidence import SHOWN

_COLUMNS = 16  # frames of a contact sheet, at most
_MERGED = 0.5  # share of a merged patch's own colour
_LINES = 2.4, 1.0  # widths of the outline of evidence, in points
_ENLARGED, _LINE = 240, 2  # pixels of the longer side of a GIF, at least, and of an outline
_EVIDENCE = 0.35  # opacity of the area of evidence


class KeptClip(NamedTuple):
    """A video after one compression; frames that the model merges in time are shown by the first of them.

    Attributes:
        frames: The frames, each (height, width, 3) in [0, 1]; height and width are multiples of the grid's.
        seconds: The time of each frame.
        kept: (frame, rows, columns) bool.
        merged: (frame, rows, columns) bool: patches that add to the tokens of others.
        evidence: (frame, rows, columns) bool mask of the patches with evidence, or None.
    """

    frames: tuple[np.ndarray, ...]
    seconds: tuple[float, ...]
    kept: np.ndarray
    merged: np.ndarray
    evidence: np.ndarray | None

    @property
    def scale(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        (height, width), (rows, columns) = self.frames[0].shape[:2], self.kept.shape[1:]
        return height // rows, width // columns

    def marked(self, frame: int) -> np.ndarray:
        """Returns a frame in which dropped patches are grey and merged ones pale, (height, width, 3) in [0, 1]."""
        pixels = self.frames[frame]
        grey = 0.66 + 0.3 * pixels.mean(-1, keepdims=True)
        colour = np.maximum(self.kept[frame], _MERGED * self.merged[frame])
        share = np.kron(colour, np.ones(self.scale))[..., None]
        return share * pixels + (1 - share) * grey


def kept_clip(
    clip: Clip,
    video: Arrangement,
    kept: Sequence[int] | Tensor,
    merged: Sequence[int] | Tensor = (),
    share: Tensor | None = None,
) -> KeptClip:
    """Returns a video with what one compression keeps of it.

    Args:
        clip: The frames that the model was given.
        video: Their arrangement.
        kept: Numbers of the kept patches.
        merged: Numbers of the patches that add to the tokens of others.
        share: The evidence, (thing, patch), as `evaluation.evidence.evidence_of` gives it for one question.

    Raises:
        DataError: The arrangement is not that of these frames.
    """
    together = math.ceil(len(clip.frames) / max(video.frames, 1))
    if not video.boxes or math.ceil(len(clip.frames) / together) != video.frames:
        raise DataError(
            f"an arrangement of {video.frames} frames with {len(video.boxes)} positions for a clip of "
            f"{len(clip.frames)} frames: expected the arrangement that the model gives for this clip"
        )
    grid = video.views[0].rows, video.views[0].columns
    shown = zip(clip.frames[::together], video.boxes, strict=True)
    evidence = None if share is None or not len(share) else (share >= SHOWN).any(0).numpy()
    return KeptClip(
        tuple(pixels_of(_part(frame, box), grid) for frame, box in shown),
        tuple(clip.seconds[::together]),
        _mask(kept, (video.frames, *grid)),
        _mask(merged, (video.frames, *grid)),
        None if evidence is None else evidence.reshape(video.frames, *grid),
    )


def with_kept(clip: KeptClip, kept: Sequence[int] | Tensor, merged: Sequence[int] | Tensor = ()) -> KeptClip:
    """Returns the same video after another compression; see `kept_clip`."""
    return clip._replace(kept=_mask(kept, clip.kept.shape), merged=_mask(merged, clip.kept.shape))


def scaled(clip: Clip, side: int) -> Clip:
    """Returns a clip whose frames have a longer side of so many pixels, so that drawing it takes little memory."""
    factor = side / max(clip.frames[0].size)
    width, height = (max(1, round(length * factor)) for length in clip.frames[0].size)
    return Clip([frame.resize((width, height)) for frame in clip.frames], clip.seconds)


def contact_sheet(clips: Mapping[str, KeptClip], title: str, text: str) -> Figure:
    """Draws the frames of a video side by side, one row per compression; evidence is outlined.

    Of more than 16 frames, 16 at equal distances are drawn; the tokens beside a row are those of all.

    Args:
        clips: The same video after each compression, by its name.
        title: Title of the figure.
        text: Footnote.
    """
    shown = sampled(len(next(iter(clips.values())).frames), _COLUMNS)
    count = len(shown)
    with house_style():
        size = 1.3 * count + 0.6, 1.5 * len(clips) + 1.2
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(clips), count, squeeze=False)
        for row, (name, clip) in zip(axes, clips.items(), strict=True):
            for frame, ax in zip(shown, row, strict=True):
                draw_frame(clip, frame, ax)
            row[0].set_ylabel(f"{name}\n{clip.kept.sum()} tokens", fontsize=9)
        caption(figure, title, text)
    return figure


def draw_frame(clip: KeptClip, frame: int, ax: Axes) -> Axes:
    """Draws one frame with its time and number of tokens above."""
    ax.imshow(clip.marked(frame), interpolation="nearest")
    ax.set_title(f"{clip.seconds[frame]:g} s: {clip.kept[frame].sum()}", fontsize=9, loc="center")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    if clip.evidence is not None:
        draw_outline(clip.evidence[frame], clip.scale, _LINES, ax)
    return ax


def tokens_per_frame(clip: KeptClip) -> dict[str, np.ndarray]:
    """Returns kept tokens, patches with evidence and kept ones among these, as counts of each frame, (frame,)."""
    shown = np.zeros_like(clip.kept) if clip.evidence is None else clip.evidence
    masks = {"kept": clip.kept, "evidence": shown, "kept_evidence": shown & clip.kept}
    return {name: mask.sum((1, 2)) for name, mask in masks.items()}


def draw_tokens_per_frame(clips: Mapping[str, KeptClip], ax: Axes, below: Axes) -> None:
    """Draws the tokens of each frame over time, and below the patches with evidence, of which some are kept.

    Args:
        clips: The same video after each compression, by its name.
        ax: Axes of the tokens.
        below: Axes of the evidence, with the same times.
    """
    first = next(iter(clips.values()))
    style: dict[str, Any] = {"where": "mid", "marker": "o", "markersize": 3}
    below.fill_between(
        first.seconds,
        tokens_per_frame(first)["evidence"],
        step="mid",
        color=COLOURS["evidence"],
        alpha=_EVIDENCE,
        linewidth=0,
        label="evidence",
    )
    for name, clip in clips.items():
        counts = tokens_per_frame(clip)
        (line,) = ax.step(clip.seconds, counts["kept"], label=name, **style)
        below.step(clip.seconds, counts["kept_evidence"], color=line.get_color(), **style)
    ax.set_ylabel("tokens")
    below.set_ylabel("patches with evidence,\nand kept ones", fontsize=9)
    below.set_xlabel("seconds")
    for each in (ax, below):
        each.set_ylim(0)
        each.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        each.tick_params(labelsize=10, color=FAINT)
        each.legend(frameon=False, fontsize=9)


def write_gif(clip: KeptClip, path: Path, fps: float = 2.0) -> None:
    """Writes a GIF that repeats without end: dropped patches are grey, and evidence is outlined.

    Args:
        clip: The video.
        path: File to write.
        fps: Frames per second.
    """
    factor = math.ceil(_ENLARGED / max(clip.frames[0].shape))
    first, *others = [_page(clip, frame, factor) for frame in range(len(clip.frames))]
    with atomic_write(path) as temporary:
        first.save(temporary, "GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)


def outline_of(mask: np.ndarray, scale: tuple[int, int], width: int) -> np.ndarray:
    """Returns the pixels (height, width) bool of a line along the inner edge of some patches.

    Args:
        mask: (rows, columns) bool: the patches.
        scale: Height and width of a patch in pixels.
        width: Width of the line in pixels.
    """
    shown = np.kron(np.pad(mask, 1), np.ones(scale)) > 0
    inner = np.logical_and.reduce([np.roll(shown, step, axis) for axis in (0, 1) for step in (-width, width)])
    return (shown & ~inner)[scale[0] : -scale[0], scale[1] : -scale[1]]


def _page(clip: KeptClip, frame: int, factor: int) -> Image.Image:
    """Returns a frame of a GIF, enlarged by a whole factor."""
    pixels = clip.marked(frame).repeat(factor, 0).repeat(factor, 1)
    if clip.evidence is not None:
        top, left = clip.scale
        pixels[outline_of(clip.evidence[frame], (factor * top, factor * left), _LINE)] = to_rgb(COLOURS["evidence"])
    return Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8))


def _part(frame: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """Returns the part of a frame that a view shows."""
    top, left, bottom, right = box
    width, height = frame.size
    return frame.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))


def _mask(patches: Sequence[int] | Tensor, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask.flat[np.asarray(patches, np.int64)] = True
    return mask
