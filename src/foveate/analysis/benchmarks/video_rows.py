"""Published numbers about videos: frames and settings behind them, and those that mean something else than ours."""

import re
from typing import Any

from foveate.data.published import Published, plain

DATA = ("videomme", "videomme_subtitles", "mvbench", "longvideobench", "mlvu", "egoschema")
"""Data sets about videos, which are read from folders."""
NAMES = {
    **{f"videomme{length}": "videomme" for length in ("short", "medium", "long")},
    **{"videommewithsubtitles": "videomme_subtitles", "egoschemasubset": "egoschema", "egoschemafull": "egoschema"},
}
"""Data sets of benchmarks whose plain names in papers are others."""
_FRAMES = {"LLaVA-OneVision": 32}
"""Frames of a video by the beginning of the model's name, where a paper's scripts have this number."""
_OTHER_SCRIPTS = ("PruneVid",)
"""Papers whose scripts for these models are not released."""


def frames_of(row: Published) -> int:
    """Returns how many frames each video has, or 0 if that is not known."""
    if named := re.search(r" (\d+) frames$", row.model):
        return int(named[1])
    known = (count for start, count in _FRAMES.items() if row.model.startswith(start))
    return 0 if row.paper in _OTHER_SCRIPTS else next(known, 0)


def settings_of(row: Published, method: str, tokens: int | float | None) -> tuple[tuple[str, Any], ...]:
    """Returns the options of our recipe that a number belongs to, besides its budget.

    Args:
        row: The number.
        method: Our name of the method.
        tokens: The budget.
    """
    found = []
    if method == "fastvid" and row.model.startswith("Qwen2.5-VL"):
        found.append(("variant", "qwen2_5_vl"))
    if method == "holitom" and tokens == 0.1:  # as in the authors' scripts
        found.append(("threshold", 0.65))
    if plain(row.method) == "holitomwom":
        found.append(("inside", 1.0))
    return tuple(found)


def refusal_of(row: Published, method: str) -> str:
    """Returns why a number about videos cannot be computed here, or an empty string.

    Args:
        row: The number.
        method: Our name of the method.
    """
    if method == "dycoke" and row.paper == "DyCoke":
        return "DyCoke with its part in the cache, which its budgets count and which is left out here"
    if method == "dycoke":
        return "DyCoke at budgets of other papers, which keep no patch of three in four frames or are not explained"
    if method == "sparsevlm":
        return "SparseVLM, whose lists of counts are for images of 576 tokens and not for shares of videos"
    if method == "prunevid":
        return "PruneVid, whose number of tokens follows from its thresholds and not from a budget"
    return ""


def incomparable(row: Published, data: str) -> str:
    """Returns why a published number is another measure than ours, as far as its source says."""
    if row.benchmark == "EgoSchema full":
        return "it is of all questions, whose answers are on a server"
    if row.benchmark == "EgoSchema":
        return "it does not say whether it is of the 500 questions with answers or of all of them"
    if data == "mlvu":
        return "it does not say whether it is the mean over tasks or over questions"
    if not frames_of(row):
        return "it does not say how many frames a video has, or takes them by their rate"
    return ""


def other_frames(frames: int, ours: int, as_images: bool) -> str:
    """Returns why a number with other frames is not comparable, or an empty string.

    Args:
        frames: Frames of each video there; 0 for images.
        ours: Frames of each video here.
        as_images: Whether the model was given the frames as images here.
    """
    if frames and as_images:
        return "frames are given as images here"
    return f"its videos have {frames} frames, here {ours} (--frames)" if frames and frames != ours else ""
