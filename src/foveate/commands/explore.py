"""Opens a page in the browser that shows what methods keep of an image or a video, and what the model answers."""

import os
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from foveate.data.names import FRAMES, SCENES
from foveate.explore.choice import Choice
from foveate.explore.plan import Plan, check_port
from foveate.models.loading.names import AUTO, REFERENCE, Dtype


def main(
    image: Positional[Path | None] = None,
    question: str | None = None,
    methods: tuple[str, ...] = (),
    index: int = 0,
    model: str = REFERENCE,
    companion: str | None = None,
    data: str = SCENES,
    split: str | None = None,
    limit: int = 100,
    seed: int = 0,
    frames: int = FRAMES,
    new_tokens: int = 32,
    device: str = AUTO,
    dtype: Dtype | Literal["auto"] = AUTO,
    port: int | None = None,
    browser: bool = True,
) -> None:
    """Shows up to four methods side by side: kept patches, scores, answer, tokens and time, and attention by layer.

    The page listens on this machine only. It exports the figure, the kept patches with their scores, and the command
    that shows the same again. Ctrl-C ends it.

    Args:
        image: An image or a video to begin with, as a file; default is that of question `index` of the data.
        question: The question about it; default is that of the data.
        methods: Up to four methods with budget and options, such as "vtc_cls(keep=0.11, start_layer=0)"; without a
            budget they keep 11 % of the patches. Default is vtc_cls, divprune, fastv and random; for a question about a
            video vidcom2, evs, fastv and random_per_frame.
        index: Number of the data's question to begin with, from 0.
        model: "reference" (shipped), a checkpoint folder, or a hub ID.
        companion: Checkpoint of the CLIP model that the tower was taken from, for methods that compare patches with
            text.
        data: Data set to choose questions from: scenes, clips, which are videos, a benchmark, or a
            table of your own. Benchmarks:
            https://github.com/foveate/foveate/blob/main/docs/how_to/benchmarks.md Tables:
            https://github.com/foveate/foveate/blob/main/docs/how_to/own_data.md
        split: Split of the data set; None means the one that results are usually reported on.
        limit: Number of questions to choose from.
        seed: Seed of generated data.
        frames: Frames that are shown of a video.
        new_tokens: Longest answer.
        device: Device of the model, such as cpu or cuda; "auto" is cuda if there is one, else mps, else cpu.
        dtype: Type of weights and activations; "auto" is float32 on a CPU, and elsewhere that of the checkpoint.
        port: Port of the page; default is the first free one from 7860 on.
        browser: Whether to open the page in the browser.
    """
    choices = tuple(map(Choice.parsed, methods))
    about = (image, question, index, model, companion, data, split, limit, seed, frames)
    plan = Plan(choices, *about, new_tokens, device, dtype)
    plan.check()
    check_port(port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    from foveate.explore.page import serve
    from foveate.explore.session import Session

    serve(Session.opened(plan), port, browser)
