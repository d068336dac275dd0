"""What a plug-in returns is checked when it returns, and the plug-in is named."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.compressors import Compressor, DecoderCompressor, VisionCompressor
from foveate.compressors.base import uncompressed
from foveate.core.arrangement import Arrangement, Grid
from foveate.core.checks import reads_values
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.contracts import Cut, Merger, Scorer, Selector
from foveate.core.errors import FoveateError
from foveate.mergers import Contextual, Drop
from foveate.models.loading.load import load
from foveate.scorers import Uniform
from foveate.selectors import MaxMin, PerTile, TopK, Union


def made_of(kind, **fields):
    """A value whose own check of shapes, which only this test run makes, is passed over."""
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def forged(origin, mixing=None):
    return made_of(Compression, origin=origin, mixing=mixing)


def decided(scores, compression):
    return made_of(Decision, scores=scores, compression=compression)


def changed(made, **fields):
    return made_of(type(made), **{**vars(made), **fields})


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


WRONG_VALUES = {
    "chosen too high": (lambda right: right + 140, "143, or PADDING (-1)"),
    "chosen below padding": (lambda right: right - 200, "expected 0..143, or PADDING (-1)"),
    "chosen twice": (lambda right: right[:, [0, 1, 2, 1]], "it is kept twice, expected each patch once"),
    "padding first": (lambda right: F.pad(right, (1, 0), value=-1), "it comes after PADDING (-1), which ends a row"),
    "on no device": (lambda right: right.to("meta"), "on the meta device"),
}
WRONG_MAKINGS = {
    "place too high": (lambda right: forged(right.origin + 140), "expected 0..143, EXTRA (-2) or PADDING (-1)"),
    "place below extra": (lambda right: forged(right.origin - 200), "expected 0..143, EXTRA (-2) or PADDING (-1)"),
    "padding first": (lambda right: forged(F.pad(right.origin, (1, 0), value=-1)), "it comes after PADDING (-1)"),
    "weights of NaN": (
        lambda right: forged(right.origin, torch.full((1, right.origin.shape[1], 144), torch.nan)),
        "a weight of its mixing is NaN or infinite",
    ),
    "on no device": (lambda right: forged(right.origin.to("meta")), "on the meta device"),
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
        wrong = WRONG_CHOICES.get(self.kind) or WRONG_VALUES[self.kind][0]
        return wrong(TopK().select(scores, trace, keep))


@dataclass(frozen=True)
class Made(Merger):
    kind: str

    def merge(self, features, kept, scores, trace, budget):
        wrong = WRONG_COMPRESSIONS.get(self.kind) or WRONG_MAKINGS[self.kind][0]
        return wrong(Drop().merge(features, kept, scores, trace, budget))


@pytest.fixture(scope="module")
def asked(tiny):
    loaded = load(tiny)
    image = torch.rand(1, 3, 96, 96)
    ids = torch.tensor([loaded.prompt("what is it ?")])
    return loaded.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": image}


def compressors(**plugins: object):
    scorer = plugins.pop("scorer", Uniform())
    return (VisionCompressor(scorer, 4, **plugins), DecoderCompressor(scorer, 4, 2, **plugins))


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
        *(({"selector": Chosen(kind)}, expected) for kind, (_, expected) in WRONG_VALUES.items()),
        *(({"merger": Made(kind)}, expected) for kind, (_, expected) in WRONG_MAKINGS.items()),
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


@dataclass(frozen=True)
class Nowhere(Scorer):
    def score(self, trace):
        return Uniform().score(trace).masked_fill(torch.arange(144) > 1, -torch.inf)


@dataclass(frozen=True)
class Always(Selector):
    def select(self, scores, trace, keep):
        return torch.tensor([[0, 1, 2]])


@pytest.mark.parametrize("where", [0, 1], ids=["behind the tower", "inside the language model"])
def test_a_choice_of_what_is_not_there_is_refused(asked, where):
    model, inputs = asked
    compressor = compressors(scorer=Nowhere(), selector=Always())[where]
    with compressor.attached(model), pytest.raises(FoveateError, match=r"Always\(\) gave 2 for image 0.*score is -inf"):
        model(**inputs)


@dataclass(frozen=True)
class OwnCut(Cut):
    """Decides what a function makes of the visual tokens."""

    make: Callable[[Tensor], object]
    layer: int = 2
    repack: bool = False

    def cut(self, states, trace):
        return self.make(torch.arange(states.shape[1])[None, :9])

    def planned(self, blocks, patches):
        return (*blocks[:2], *(9.0,) * (len(blocks) - 2))


@dataclass(frozen=True)
class OwnCompressor(Compressor):
    """Gives what a function makes of the uncompressed image, or cuts."""

    make: Callable[[Compressed], object] = lambda whole: whole
    own_cuts: tuple[Cut, ...] = ()
    positions: str = "original"

    @property
    def cuts(self):
        return self.own_cuts

    def compress(self, images):
        return self.make(uncompressed(images))

    def plan(self, patches, depth):
        return (float(patches),) * depth


SCORES = torch.zeros(1, 144)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda kept: kept, "expected a Decision"),
        (lambda kept: decided(SCORES[:, :9], forged(kept)), "floating-point scores of shape (1, 144)"),
        (lambda kept: decided(SCORES, kept), "expected a Compression"),
        (lambda kept: decided(SCORES, forged(kept[0])), "whole origins of shape (1, any)"),
        (lambda kept: decided(SCORES, forged(kept + 140)), "gave 144 for image 0 of the batch: expected 0..143"),
        (lambda kept: decided(SCORES, forged(kept, torch.zeros(1, 9, 145))), "mixing weights of shape (1, 9, 144)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_cut_that_decides_something_else_is_named(asked, make, expected):
    model, inputs = asked
    with OwnCompressor(own_cuts=(OwnCut(make),)).attached(model), pytest.raises(FoveateError) as refused:
        model(**inputs)
    assert str(refused.value).startswith("OwnCut(make=") and expected in str(refused.value)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda made: made.tokens, "expected a Compressed"),
        (lambda made: changed(made, tokens=made.tokens[0]), "floating-point tokens of shape (1, any, any)"),
        (
            lambda made: changed(made, tokens=made.tokens.repeat(2, 1, 1)),
            "floating-point tokens of shape (1, any, any)",
        ),
        (lambda made: changed(made, tokens=made.tokens[:, :9]), "gave 9 tokens of each image and the origins of 144"),
        (lambda made: changed(made, decision=made.decision.scores), "as its decision: expected a Decision"),
        (
            lambda made: changed(made, decision=decided(SCORES[:, :9], made.decision.compression)),
            "floating-point scores of shape (1, 144)",
        ),
        (
            lambda made: changed(made, decision=decided(SCORES, forged(torch.arange(1, 145)[None]))),
            "gave 144 for image 0 of the batch: expected 0..143",
        ),
        (
            lambda made: changed(made, arrangements=(Arrangement((Grid(2, 72),)),)),
            "another arrangement than that of the images",
        ),
    ],
    ids=range(8),
)
def test_a_compressor_that_gives_something_else_is_named(asked, make, expected):
    model, inputs = asked
    with OwnCompressor(make).attached(model), pytest.raises(FoveateError) as refused:
        model(**inputs)
    assert str(refused.value).startswith("OwnCompressor(make=") and expected in str(refused.value)


def test_own_cuts_and_compressors_that_are_right_are_let_through(asked):
    model, inputs = asked
    cut = OwnCut(lambda kept: decided(SCORES, forged(kept)))
    with OwnCompressor(own_cuts=(cut,)).attached(model) as run:
        model(**inputs)
    assert run.kept[0].tolist() == list(range(9))


def test_only_plug_ins_from_elsewhere_make_a_device_wait_for_their_values():
    far = torch.device("cuda")
    assert not reads_values(Union((TopK(), PerTile(MaxMin()))), far)
    assert not reads_values(Contextual(), far)
    assert reads_values(Union((TopK(), Always())), far)
    assert reads_values(Always(), far)
    assert reads_values(TopK(), torch.device("cpu"))
