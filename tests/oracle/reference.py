"""The oracle as a reference for `foveate.testing.decoding`."""

from torch import Tensor

from foveate.compressors.result import Result
from foveate.testing.decoding import Setting
from tests.oracle import oracle
from tests.oracle.cases import expected_of


def reference(setting: Setting, run: Result, answers: list[list[int]]) -> list[Tensor]:
    """Returns the oracle's logits; see `foveate.testing.decoding.Reference`."""
    prompts = [oracle.Prompt(ids, [image]) for ids, image in zip(setting.prompts, setting.images, strict=True)]
    found = []
    for (tokens, cuts), more in zip(
        expected_of(setting.model, setting.family, prompts, setting.compressor, run), answers, strict=True
    ):
        logits, visible = oracle.run(setting.model, tokens, cuts, more)
        found.append(logits[visible])
    return found
