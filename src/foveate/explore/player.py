"""The controls that play a video on the page: a slider over its frames and a button."""

from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import ImageOps

from foveate.explore.drawing import enlarged
from foveate.explore.session import Seen

_PLAY, _PAUSE = "Play", "Pause"
_STEP = 0.5  # seconds from frame to frame
_SIDE = 288  # pixels of the longer side of a small image, at most


@dataclass(frozen=True, eq=False)
class Player:
    """The components of the controls, which are hidden unless there is a video of several frames.

    Attributes:
        image: The image, or the shown frame.
        frame: Number of the shown frame.
        button: Plays or pauses.
        timer: Is active while the video plays.
    """

    image: gr.Image
    frame: gr.Slider
    button: gr.Button
    timer: gr.Timer

    @classmethod
    def made(cls, seen: gr.State) -> "Player":
        """Makes the components for what `seen` holds, and connects the button and the timer with the slider."""
        player = cls(
            gr.Image(type="pil", label="Image", height=300, interactive=False, buttons=["fullscreen"], elem_id="image"),
            gr.Slider(0, 1, 0, step=1, label="Frame", buttons=[], elem_id="frame", visible=False),
            gr.Button(_PLAY, size="sm", elem_id="play", visible=False),
            gr.Timer(_STEP, active=False),
        )
        light: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        player.button.click(_toggled, player.button, [player.button, player.timer], **light)
        player.timer.tick(_next, [seen, player.frame], player.frame, **light)
        return player

    @property
    def outputs(self) -> list[Any]:
        return [self.image, self.frame, self.button, self.timer]


def curves_image() -> gr.Image:
    """Makes the figure of the kept tokens over time, which is hidden unless there is a video."""
    look: dict[str, Any] = {"type": "pil", "show_label": False, "interactive": False, "buttons": ["fullscreen"]}
    return gr.Image(**look, elem_id="curves", visible=False)


def ready(seen: Seen | None) -> tuple[Any, ...]:
    """Returns what `Player.outputs` show of an image or a video that is asked about: its first frame, paused."""
    last = len(seen.panes) - 1 if seen and seen.clip else 0
    slider = gr.Slider(maximum=max(last, 1), value=0, visible=last > 0)
    return frame_of(seen, 0), slider, gr.Button(_PLAY, visible=last > 0), gr.Timer(active=False)


def frame_of(seen: Seen | None, frame: int) -> Any:  # noqa: ANN401 (an image with its label)
    """Returns the image, or a frame of the video with its time."""
    if seen is None:
        return gr.Image(None, label="Image")
    image = seen.prompt.frames[frame]
    if not seen.clip:
        return gr.Image(enlarged(image, _SIDE), label="Image")
    shown = enlarged(image if max(image.size) <= _SIDE else ImageOps.contain(image, (_SIDE, _SIDE)), _SIDE)
    return gr.Image(shown, label=f"Frame at {seen.prompt.seconds[frame]:g} s")


def _toggled(name: str) -> tuple[gr.Button, gr.Timer]:
    """Plays if the button said so, and pauses otherwise."""
    plays = name == _PLAY
    return gr.Button(_PAUSE if plays else _PLAY), gr.Timer(active=plays)


def _next(seen: Seen | None, frame: float) -> int:
    """Returns the number of the next frame, the first one after the last."""
    return (int(frame) + 1) % len(seen.panes) if seen and seen.clip else 0
