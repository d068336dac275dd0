"""Compressors: scorer, selector and merger put together, and attached to a stock model."""

from foveate.compression.base import Compressor
from foveate.compression.controls import Blind, Downsample, Identity, Pool
from foveate.compression.prompt import Pipeline, PromptCompressor
from foveate.compression.run import Run
from foveate.compression.stand_in import StandIn
from foveate.compression.vision import TowerCompressor, VisionCompressor

__all__ = [
    "Blind",
    "Compressor",
    "Downsample",
    "Identity",
    "Pipeline",
    "Pool",
    "PromptCompressor",
    "Run",
    "StandIn",
    "TowerCompressor",
    "VisionCompressor",
]
