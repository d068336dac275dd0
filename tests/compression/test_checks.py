"""What a plug-in returns is checked when it returns, and the plug-in is named."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from foveate.compression import PromptCompressor, VisionCompressor
from foveate.core.contracts import Merger, Scorer, Selector
from foveate.core.errors import FoveateError
from foveate.core.types import Compression
from foveate.mergers import Drop
from foveate.models.load import load
from foveate.scorers import Uniform
from foveate.selectors import TopK


def forged(origin, mixing=None):
    """A compression whose own check of shapes, which only this test run makes, is passed over."""
    made = object.__new__(Compression)
    object.__setattr__(made, "origin", origin)
    object.__setattr__(made, "mixing", mixing)
    return made


WRONG_SCORES = {
    "a patch too few": lambda right: right[:, :-4],
    "[CLS] among them": lambda right: torch.cat([right, right[:, :1]], 1),
    "one per head": lambda right: right[:, None].expand(-1, 4, -1),
    "no batch axis": lambda right: right[0],
    "a batch too large": lambda right: torch.cat([right, right]),
    "numpy": lambda right: right.numpy(),
    "whole numbers": lambda right: right.long(),
    "a list": lambda right: right.tolist(),
    "nothing": lambda right: None,
}
WRONG_CHOICES = {
    "a mask": lambda right: torch.ones(1, 144, dtype=torch.bool),
    "no batch axis": lambda right: right[0],
    "floats": lambda right: right.float(),
    "numpy": lambda right: right.numpy(),
}
WRONG_COMPRESSIONS = {
    "tokens": lambda right: torch.zeros(1, 4, 8),
    "no batch axis": lambda right: forged(right.origin[0]),
    "mixing of other tokens": lambda right: forged(right.origin, torch.zeros(1, 3, 144)),
    "mixing of too many sources": lambda right: forged(right.origin, torch.zeros(1, right.origin.shape[1], 999)),
    "whole mixing": lambda right: forged(right.origin, torch.zeros(1, right.origin.shape[1], 144).long()),
}


@dataclass(frozen=True)
class Given(Scorer):
    kind: str

    def score(self, trace):
        return WRONG_SCORES[self.kind](Uniform().score(trace))


@dataclass(frozen=True)
class Chosen(Selector):
    kind: str

    def select(self, scores, trace, keep):
        return WRONG_CHOICES[self.kind](TopK().select(scores, trace, keep))


@dataclass(frozen=True)
class Made(Merger):
    kind: str

    def merge(self, features, kept, scores, trace):
        return WRONG_COMPRESSIONS[self.kind](Drop().merge(features, kept, scores, trace))


@pytest.fixture(scope="module")
def asked(tiny):
    loaded = load(tiny)
    picture = torch.rand(1, 3, 96, 96)
    ids = torch.tensor([loaded.prompt("what is it ?")])
    return loaded.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": picture}


def compressors(**plugins: object):
    scorer = plugins.pop("scorer", Uniform())
    return (VisionCompressor(scorer, 4, **plugins), PromptCompressor(scorer, 4, 2, **plugins))


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        *(
            ({"scorer": Given(kind)}, "expected a tensor of floating-point scores of shape (1, 144)")
            for kind in WRONG_SCORES
        ),
        *(
            ({"selector": Chosen(kind)}, "expected a tensor of whole kept patches of shape (1, any)")
            for kind in WRONG_CHOICES
        ),
        *(({"merger": Made(kind)}, "expected a") for kind in WRONG_COMPRESSIONS),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", [0, 1], ids=["behind the tower", "inside the language model"])
def test_a_plug_in_that_returns_something_else_is_named_with_what_it_gave(asked, plugin, expected, where):
    model, inputs = asked
    (named,) = plugin.values()
    with compressors(**plugin)[where].attached(model), pytest.raises(FoveateError) as refused:
        model(**inputs)
    said = str(refused.value)
    assert said.startswith(f"{named!r} gave ")
    assert expected in said
    assert len(said) < 500


def test_what_is_right_is_let_through(asked):
    model, inputs = asked
    for compressor in compressors():
        with compressor.attached(model) as run:
            assert isinstance(model(**inputs).logits, Tensor)
        assert len(run.kept[0]) == 4
