"""The oracle as the reference of `foveate.testing.decoding`."""

from torch import Tensor

from foveate.compressors.result import Result
from foveate.testing.decoding import Setting
from tests.oracle import oracle
from tests.oracle.cases import expected_of


def truth(setting: Setting, run: Result, said: list[list[int]]) -> list[Tensor]:
    """See `foveate.testing.decoding.Truth`."""
    prompts = [oracle.Prompt(ids, [image]) for ids, image in zip(setting.prompts, setting.images, strict=True)]
    found = []
    for (tokens, cuts), more in zip(
        expected_of(setting.model, setting.family, prompts, setting.compressor, run), said, strict=True
    ):
        logits, visible = oracle.run(setting.model, tokens, cuts, more)
        found.append(logits[visible])
    return found
