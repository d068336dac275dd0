"""The protocol of a benchmark number, all that it depends on besides model and method, with a fingerprint."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from foveate.data.names import parsed
from foveate.data.prompts import instruction_of
from foveate.data.sample import Form, VQASample
from foveate.evaluation.config import EvalConfig, run_id
from foveate.metrics.benchmarks import Measure

_UNPADDED = {
    "llava_next": "padding is removed, ends of rows are kept",
    "llava_onevision": "padding is removed, ends of rows are kept",
}
"""Treatment of the padding of enlarged images, by `model_type`."""


@dataclass(frozen=True)
class Protocol:
    """The protocol of a number.

    Attributes:
        data: Name of the data set.
        split: Its split.
        prompt: Words of the prompts around the questions, each once.
        ocr_hints: Whether prompts have the tokens of an OCR system.
        unpad: What happens to the padding of images.
        number: Name of the number.
        aggregation: How the questions' scores become the number: "mean", "sum" over subtasks, or "ratio of sums".
        longest_answer: Number of new tokens.
        frames: Frames of each video; 0 without videos.
    """

    data: str
    split: str
    prompt: str
    ocr_hints: bool
    unpad: str
    number: str
    aggregation: str
    longest_answer: int
    frames: int = 0

    @property
    def fingerprint(self) -> str:
        """A hash of all fields, equal for equal protocols."""
        parts = asdict(self)
        return run_id(parts if self.frames else {name: value for name, value in parts.items() if name != "frames"})[:8]


def protocol_of(config: EvalConfig, samples: Sequence[VQASample], model_type: str, measure: Measure) -> Protocol:
    """Returns the protocol of a number of an evaluation.

    Args:
        config: The evaluation.
        samples: Its questions.
        model_type: The checkpoint's `model_type`, which decides the prompts.
        measure: The number.
    """
    forms: set[Form] = {sample.form for sample in samples}
    hinted = any(sample.hint and sample.form == "short" for sample in samples)
    aggregation = "mean" if measure.is_mean else "sum" if measure.unit > 1 else "ratio of sums"
    return Protocol(
        parsed(config.data)[0],
        config.split,
        " | ".join(sorted(instruction_of(form, model_type) for form in forms)),
        hinted,
        _UNPADDED.get(model_type, "images have no padding that could be removed"),
        measure.name,
        aggregation,
        config.max_new_tokens,
        config.frames if any(sample.video for sample in samples) else 0,
    )
