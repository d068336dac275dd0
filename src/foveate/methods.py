"""Published methods and controls as recipes: from a budget to a compressor. `METHODS` is the only table of names."""

from collections.abc import Callable

from foveate.compression import Blind, Compressor, Identity, VisionCompressor
from foveate.core.needs import LayersFrom
from foveate.scorers import ClsAttention, ClsEnsemble, Evidence, Random, Uniform


def full(keep: int | float = 1.0) -> Compressor:
    """No compression; `keep` is ignored, so that the reference can stand in a list of methods."""
    return Identity()


def blind(keep: int | float = 1.0) -> Compressor:
    """Control: no picture at all; `keep` is ignored."""
    return Blind()


def random(keep: int | float, seed: int = 0) -> Compressor:
    """Control: patches at random, fixed per picture and seed."""
    return VisionCompressor(Random(seed), keep)


def uniform(keep: int | float) -> Compressor:
    """Control: patches spread evenly over the picture."""
    return VisionCompressor(Uniform(), keep)


def evidence(keep: int | float) -> Compressor:
    """Oracle on annotated data: the patches that show what the question asks about."""
    return VisionCompressor(Evidence(), keep)


def vtc_cls(keep: int | float, start_layer: int = 16) -> Compressor:
    """VTC-CLS: [CLS] attention summed from `start_layer` to the layer that writes the features.

    The default is that of the authors' scripts, for towers of 24 layers. Source: arXiv 2412.05819.
    """
    return VisionCompressor(ClsEnsemble(LayersFrom(start_layer)), keep)


def fastervlm(keep: int | float, layer: int = -2) -> Compressor:
    """FasterVLM: [CLS] attention of layer -2, which writes the features in LLaVA-1.5. Source: arXiv 2412.01818v1."""
    return VisionCompressor(ClsAttention(layer), keep)


METHODS: dict[str, Callable[..., Compressor]] = {
    recipe.__name__: recipe for recipe in (full, blind, random, uniform, evidence, vtc_cls, fastervlm)
}
