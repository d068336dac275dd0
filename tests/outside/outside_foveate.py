"""A package of somebody else's: a family, a benchmark and a method, in one file that touches nothing of foveate."""

from collections.abc import Iterator

from transformers import AutoConfig, AutoModelForImageTextToText, LlavaConfig, LlavaForConditionalGeneration

from foveate import Scorer, VisionCompressor
from foveate.core.needs import ClsRows
from foveate.data.benchmark import Benchmark, Row, RowQuestion, text_of
from foveate.data.stored import Part
from foveate.models.families.llava import Llava


class OutsideConfig(LlavaConfig):
    model_type = "outside_llava"


class OutsideForConditionalGeneration(LlavaForConditionalGeneration):
    config_class = OutsideConfig


AutoConfig.register("outside_llava", OutsideConfig)
AutoModelForImageTextToText.register(OutsideConfig, OutsideForConditionalGeneration)


class OutsideLlava(Llava):
    """A family that is asked like LLaVA."""


def _ask(row: Row) -> Iterator[RowQuestion]:
    yield RowQuestion("", "any", text_of(row, "question"), (text_of(row, "answer"),), "exact", "short")


COLOURS = Benchmark("colours", "outside/colours", {"test": Part("test")}, "test", ("question", "answer"), _ask)


class LastLayer(Scorer):
    """The last layer's [CLS] attention, mean over heads."""

    needs = (ClsRows((-1,)),)

    def score(self, trace):
        return trace[self.needs[0]].mean((1, 2))


def last_layer(keep: int) -> VisionCompressor:
    return VisionCompressor(LastLayer(), keep)
