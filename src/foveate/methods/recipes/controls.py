"""Controls and oracles: functions from a budget to a compressor."""

from foveate.compressors import Blind, Compressor, DecoderCompressor, Downsample, Identity, Pool, VisionCompressor
from foveate.core.budget import Keep, Number, floored
from foveate.core.layers import BlockAtDepth
from foveate.mergers import TemporalMean
from foveate.scorers import Constant, Contrast, Edges, Evidence, Random, ResponseAttention, Saturation, Uniform
from foveate.selectors import EvenFrames, Nothing, PerTile


def full(keep: Keep = 1.0) -> Compressor:
    """Returns no compression; `keep` is ignored."""
    return Identity()


def blind(keep: Keep = 1.0) -> Compressor:
    """Returns the control without an image; `keep` is ignored."""
    return Blind()


def random(keep: Keep, seed: int = 0) -> Compressor:
    """Returns the control with random patches, fixed per image and seed."""
    return VisionCompressor(Random(seed), keep)


def uniform(keep: Keep) -> Compressor:
    """Returns the control with an even grid of patches, the same in every frame of a video."""
    return VisionCompressor(Uniform(), keep)


def pool(keep: Keep) -> Compressor:
    """Returns the control with average pooling of the patches to a grid of about `keep` tokens."""
    return Pool(keep)


def downsample(keep: Keep) -> Compressor:
    """Returns the control with the image at a lower resolution of about `keep` tokens."""
    return Downsample(keep)


def saturation(keep: Keep) -> Compressor:
    """Returns the control with the most saturated patches."""
    return VisionCompressor(Saturation(), keep)


def contrast(keep: Keep) -> Compressor:
    """Returns the control with the patches of highest contrast."""
    return VisionCompressor(Contrast(), keep)


def edges(keep: Keep) -> Compressor:
    """Returns the control with the patches of strongest edges."""
    return VisionCompressor(Edges(), keep)


def evidence(keep: Keep) -> Compressor:
    """Returns the oracle that keeps the patches with the question's evidence; annotated data only."""
    return VisionCompressor(Evidence(), keep)


def response_attention(keep: Keep, blocks: tuple[int, ...] = ()) -> Compressor:
    """Returns the oracle that keeps the patches the answer attends to in some blocks; empty means all."""
    return VisionCompressor(ResponseAttention(blocks), keep)


def random_inside(keep: Keep, layer: int = BlockAtDepth(2, of=32), seed: int = 0) -> Compressor:
    """Returns the control with random patches, dropped at FastV's block, so that only the choice differs."""
    return DecoderCompressor(Random(seed), floored(keep), layer)


def random_per_frame(keep: Keep, seed: int = 0) -> Compressor:
    """Returns the control with equally many random patches of each frame, fixed per video and seed."""
    return VisionCompressor(Random(seed), keep, PerTile())


def fewer_frames(keep: Keep) -> Compressor:
    """Returns the control with whole frames at even distances, as many as come nearest to the budget; no images."""
    return VisionCompressor(Constant(), keep, EvenFrames())


def temporal_mean(keep: Number) -> Compressor:
    """Returns the control with means of consecutive frames, as many as come nearest to the budget; no images."""
    return VisionCompressor(Constant(), None, Nothing(), TemporalMean(keep), merge_projected=True)
