"""Videos given as arrays, those of the golden files among them, and the plug-ins that only videos have."""

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.compression import Compression
from foveate.core.contracts import ImageBatch, Reduction
from foveate.core.needs import Features, Fingerprint, FrameVectors, Need, PoolingRows, ReceivedRows
from foveate.core.trace import Trace
from tests.golden_llava import GOLDEN  # which puts the folder of the inputs on the path

import inputs_video  # isort: skip

assert (GOLDEN / "inputs_video.py").exists()
SCORERS = {"FrameChange"}
SELECTORS = {"ChangedInGroups", "EvenFrames"}
MERGERS = {
    "Components",
    "Quadtree",
    "SegmentAnchors",
    "SegmentTrees",
    "StaticAndDynamic",
    "TemporalMean",
    "WindowClusters",
}


class ArrayVideos(ImageBatch):
    """Videos of one shape, given as features that need no projector.

    Args:
        clips: Features (video, frame, patch, dim).
        grid: Grid of the patches of a frame.
        answers: Answers to further needs.
    """

    def __init__(self, clips: Tensor, grid: Grid, answers: Mapping[Need, Tensor]) -> None:
        self.features, frames = clips.flatten(1, 2), clips.shape[1]
        self.answers = {**answers, Features(projected=True): self.features}
        self.arrangement = Arrangement((grid,) * frames, Arrangement.boxes * frames, frames=frames)

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        values = {need: self.answers[need] for need in needs}
        return self.features, Trace.recorded(values, self.arrangement, len(self.features))

    def project(self, features: Tensor) -> Tensor:
        return features

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Tensor, Compression]:
        raise NotImplementedError


@cache
def golden_video(name: str, vectors: str = "given") -> ArrayVideos:
    """Returns a video of the golden files with its attention, and as frame vectors those given or the "mean"."""
    shape, clip = inputs_video.VIDEOS[name], torch.from_numpy(inputs_video.video(name))
    rows = torch.from_numpy(inputs_video.received(name)).flatten()[None, None]
    given = torch.from_numpy(inputs_video.global_features(name)) if vectors == "given" else clip.mean(1)
    answers = {ReceivedRows(-1): rows, PoolingRows(): rows, FrameVectors(): given[None]}
    return ArrayVideos(clip[None], Grid(shape["h"], shape["w"]), answers)


def drawn_videos(frames: int, videos: int = 2, still: bool = False, seed: int = 0) -> ArrayVideos:
    """Returns random videos of one scene each, on a grid of 5 x 6 patches; `still` repeats the first frame."""
    grid, generator = Grid(5, 6), torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    clips = normal(videos, 1, grid.patches, 8) + (0 if still else 0.4) * normal(videos, frames, grid.patches, 8)
    clips = clips.expand(-1, frames, -1, -1)
    rows = normal(videos, 2, frames * grid.patches).softmax(2)
    vectors = {FrameVectors(): clips.mean(2), Fingerprint(): torch.arange(videos) + seed}
    return ArrayVideos(clips, grid, {ReceivedRows(-1): rows, PoolingRows(): rows, **vectors})


def alone(videos: ArrayVideos, row: int) -> ArrayVideos:
    """Returns one of several videos."""
    grid, frames = videos.arrangement.views[0], videos.arrangement.frames
    answers = {need: value[row : row + 1] for need, value in videos.answers.items()}
    return ArrayVideos(videos.features[row : row + 1].unflatten(1, (frames, -1)), grid, answers)
