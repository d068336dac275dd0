"""Compressors: scorers, selectors and mergers combined, and attached to a stock model."""

from foveate.compressors.base import Compressor
from foveate.compressors.controls import Blind, Downsample, Identity, Pool
from foveate.compressors.decoder import DecoderCompressor
from foveate.compressors.fallback import Fallback
from foveate.compressors.first_choice import FirstChoice
from foveate.compressors.pipeline import Pipeline
from foveate.compressors.resolution import AtResolution
from foveate.compressors.result import Result
from foveate.compressors.tower import TowerCompressor
from foveate.compressors.vision import VisionCompressor

__all__ = [
    "AtResolution",
    "Blind",
    "Compressor",
    "DecoderCompressor",
    "Downsample",
    "Fallback",
    "FirstChoice",
    "Identity",
    "Pipeline",
    "Pool",
    "Result",
    "TowerCompressor",
    "VisionCompressor",
]
