"""Figures of the page about videos: kept tokens over time, and all frames side by side."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from foveate.analysis.clips import KeptClip, contact_sheet, draw_tokens_per_frame, outline_of, with_kept
from foveate.analysis.drawing import FAINT, house_style
from foveate.explore.drawing import Column, as_image, mapped, ranks_of
from foveate.explore.inspection import Inspection
from foveate.explore.session import Seen

_WIDE, _NARROW, _GAP = 4, 2, 8  # pixels: white and black line of an outline, and the gap above the scores


def clips_of(seen: Seen, inspections: Mapping[str, Inspection]) -> dict[str, KeptClip]:
    """Returns the video after each compression, by its name; none of an image."""
    if seen.clip is None:
        return {}
    return {name: with_kept(seen.clip, one.kept, one.merged) for name, one in inspections.items()}


def frame_image(seen: Seen, inspection: Inspection, frame: int) -> Image.Image:
    """Returns one frame with dropped patches in grey, merged ones pale and evidence outlined, above its scores.

    Args:
        seen: A video and a question.
        inspection: What the method keeps.
        frame: Number of the frame.
    """
    (clip,) = clips_of(seen, {"": inspection}).values()
    pane, pixels = seen.panes[frame], clip.marked(frame)
    if clip.evidence is not None:
        for light, width in ((1, _WIDE), (0, _NARROW)):
            pixels[outline_of(clip.evidence[frame], clip.scale, width)] = light
    gap = np.ones((_GAP, pixels.shape[1], 3))
    whole = np.concatenate([pixels, gap, mapped(pane, ranks_of(inspection))[..., :3]])
    return Image.fromarray((255 * whole.clip(0, 1)).round().astype(np.uint8))


class Curves(NamedTuple):
    """The curves of kept tokens over time.

    Attributes:
        image: The figure.
        lines: For each frame, its horizontal position in the figure and the vertical range of the axes, in pixels.
    """

    image: Image.Image
    lines: tuple[tuple[float, float, float], ...]

    def at(self, frame: int) -> Image.Image:
        """Returns the figure with a line at one frame."""
        image, (x, top, bottom) = self.image.copy(), self.lines[frame]
        ImageDraw.Draw(image).line([(x, top), (x, bottom)], FAINT, 2)
        return image


def curves_of(seen: Seen, inspections: Mapping[str, Inspection]) -> Curves:
    """Draws the kept tokens of each frame over time, and the evidence below.

    Args:
        seen: A video and a question.
        inspections: What each method keeps, by its name.
    """
    with house_style():
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        above, below = figure.subplots(2, sharex=True)
        draw_tokens_per_frame(clips_of(seen, inspections), above, below)
        for ax in (above, below):
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
        image = as_image(figure)
    across = [above.transData.transform((time, 0))[0] / figure.bbox.width for time in seen.prompt.seconds]
    top, bottom = (1 - above.get_position().y1) * image.height, (1 - below.get_position().y0) * image.height
    return Curves(image, tuple((x * image.width, top, bottom) for x in across))


def sheet_figure(seen: Seen, columns: Sequence[Column]) -> Figure:
    """Draws a row per method and a column per frame, with question and answers: the figure that the page exports."""
    named = {f"{textwrap.fill(one.name, 24)}\n{_answer(one.inspection)}": one.inspection for one in columns}
    title = f"{textwrap.shorten(seen.prompt.question, 160)} All patches: {_answer(seen.full)}"
    note = "Above each frame: its time and its kept tokens. Dropped patches are grey, merged ones pale"
    outlined = "." if seen.prompt.evidence is None else "; evidence is outlined."
    return contact_sheet(clips_of(seen, named), title, note + outlined)


def _answer(inspection: Inspection) -> str:
    return textwrap.shorten(inspection.answer, 24) or "(empty answer)"
