"""Numbers, words and switches of plug-ins: plain when they are made, or refused by name."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from foveate.compressors import DecoderCompressor, Pool, TowerCompressor, VisionCompressor
from foveate.core.budget import Floor, Times, check_budgets, plain_keep, resolve_keep
from foveate.core.errors import BudgetError, OptionError
from foveate.core.layers import LayersFrom, resolve_layer
from foveate.core.needs import ClsRows
from foveate.core.values import whole
from foveate.evaluation.identity import identity_of
from foveate.mergers import Contextual
from foveate.methods import (
    METHODS,
    hiprune,
    prumerge,
    prumerge_plus,
    trim,
    vtw,
)
from foveate.reductions import Bipartite, InformationFlow
from foveate.scorers import ClsAttention, ClsEnsemble, Constant, Hybrid, PromptAttention, Random, Uniform
from foveate.selectors import ImportantDiverse, Mass, MaxMin, Outliers, PerTile, Stride, TopK, TopShare, Union

COUNTS = {
    "int64": np.int64(16),
    "uint8": np.uint8(16),
    "array": np.array(16),
    "tensor": torch.tensor(16),
    "short tensor": torch.tensor(16, dtype=torch.int16),
}
FRACTIONS = {
    "float64": np.float64(0.25),
    "float32": np.float32(0.25),
    "float16": np.float16(0.25),
    "longdouble": np.longdouble(0.25),
    "array": np.array(0.25),
    "tensor": torch.tensor(0.25),
    "parameter": torch.nn.Parameter(torch.tensor(0.25)),
    "fraction": Fraction(1, 4),
    "decimal": Decimal("0.25"),
}
NO_BUDGETS = {
    "bool": True,
    "numpy bool": np.True_,
    "tensor of bool": torch.tensor(True),
    "text": "16",
    "nan": float("nan"),
    "nan tensor": torch.tensor(float("nan")),
    "decimal nan": Decimal("sNaN"),
    "none": None,
    "complex": 16j,
    "numpy complex": np.complex64(16),
    "list": [16],
    "array of one": np.array([16]),
    "tensor of one": torch.tensor([16]),
    "meta": torch.tensor(16, device="meta"),
    "bytes": b"16",
    "beyond all floats": Fraction(10**400, 3),
}


@pytest.mark.parametrize("keep", COUNTS.values(), ids=COUNTS)
def test_a_count_of_any_library_is_the_count(keep):
    assert resolve_keep(keep, 144) == 16
    assert type(plain_keep(keep)) is int
    check_budgets([keep])


@pytest.mark.parametrize("keep", FRACTIONS.values(), ids=FRACTIONS)
def test_a_fraction_of_any_library_is_the_fraction(keep):
    assert resolve_keep(keep, 144) == 36
    assert resolve_keep(Floor(keep), 144) == 36
    assert type(plain_keep(keep)) is float
    check_budgets([keep])


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("full", "blind", "vtw")])
def test_methods_of_equal_budgets_are_equal_print_alike_and_have_one_identity(name):
    for keep in [*COUNTS.values(), *([] if name.startswith("sparsevlm") else FRACTIONS.values())]:
        one, other = METHODS[name](keep=plain_keep(keep)), METHODS[name](keep=keep)
        assert one == other
        assert hash(one) == hash(other)
        assert repr(one) == repr(other)
        assert identity_of(one) == identity_of(other)


def test_published_counts_are_found_by_a_number_of_any_library():
    assert prumerge_plus(torch.tensor(64)) == prumerge_plus(64) != prumerge_plus(65)


@pytest.mark.parametrize("keep", NO_BUDGETS.values(), ids=NO_BUDGETS)
def test_what_is_no_number_is_refused_where_the_compressor_is_made(keep):
    makers = [
        lambda: TowerCompressor(Bipartite(), keep),
        lambda: Pool(keep),
        lambda: Times(keep, 0.5),
        *(
            [lambda: VisionCompressor(Uniform(), keep), lambda: DecoderCompressor(Uniform(), keep, 2)]
            if keep is not None
            else []
        ),
    ]
    for make in makers:
        with pytest.raises(BudgetError, match="keep=") as refused:
            make()
        assert "count" in str(refused.value) and "fraction" in str(refused.value)


@pytest.mark.parametrize("keep", [16.0, np.float32(16), torch.tensor(16.0), Decimal(16), Fraction(16)], ids=repr)
def test_a_float_that_is_whole_is_no_count_and_the_error_says_what_to_write(keep):
    with pytest.raises(
        BudgetError, match=r"keep=16.0: a fraction lies in \(0, 1\]; for a count give an int, such as 16"
    ):
        resolve_keep(keep, 144)
    with pytest.raises(BudgetError, match="such as 16"):
        check_budgets([keep])


@pytest.mark.parametrize("keep", [float("inf"), -float("inf"), np.float64(-0.5), np.int64(0), np.int64(145)], ids=repr)
def test_numbers_out_of_range_are_refused_with_the_number_of_patches(keep):
    with pytest.raises(BudgetError, match=rf"keep={plain_keep(keep)}: .*144"):
        resolve_keep(keep, 144)


@pytest.mark.parametrize("selector", [TopK(), MaxMin(), PerTile(), Union((TopK(), Stride()))], ids=repr)
def test_no_budget_is_refused_where_the_selector_needs_one(selector):
    for make in (
        lambda: VisionCompressor(Uniform(), None, selector),
        lambda: DecoderCompressor(Uniform(), None, 2, selector),
    ):
        with pytest.raises(BudgetError, match=r"keep=None: .*\) needs a budget"):
            make()


def test_and_it_is_allowed_where_the_selector_decides_alone():
    assert VisionCompressor(Uniform(), None, Outliers()).keep is None
    assert [prumerge(), trim(), prumerge_plus(), vtw()]


def test_other_numbers_of_a_plug_in_are_plain_too():
    pairs = [
        (ClsAttention(np.int64(3), [np.int64(0), 2.0]), ClsAttention(3, (0, 2))),
        (ClsEnsemble(np.array([3, 4]), torch.tensor([0.5, 0.25])), ClsEnsemble((3, 4), (0.5, 0.25))),
        (ClsEnsemble(LayersFrom(torch.tensor(2))), ClsEnsemble(LayersFrom(2))),
        (Hybrid((Constant(), Uniform()), (np.float32(0.5), 1)), Hybrid((Constant(), Uniform()), (0.5, 1.0))),
        (ImportantDiverse(np.float64(0.5)), ImportantDiverse(0.5)),
        (TopShare(np.int64(9), Fraction(2)), TopShare(9, 2.0)),
        (TopShare(np.float64(0.5), np.float32(2)), TopShare(0.5, 2.0)),
        (Contextual(np.float32(0.25), torch.tensor(-3), cls=np.False_), Contextual(0.25, -3, cls=False)),
        (InformationFlow(torch.tensor(0.5)), InformationFlow(0.5)),
        (DecoderCompressor(Random(np.uint8(1)), 4, np.int64(2)), DecoderCompressor(Random(1), 4, 2)),
        (ClsRows((np.int64(3),)), ClsRows((3,))),
    ]
    for given, plain in pairs:
        assert given == plain
        assert repr(given) == repr(plain)
        assert identity_of(given) == identity_of(plain)
    assert resolve_layer(np.int64(-1), 24) == 23


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DecoderCompressor(Uniform(), 4, True), "DecoderCompressor: layer=True: expected a whole number"),
        (lambda: DecoderCompressor(Uniform(), 4, 2.5), "DecoderCompressor: layer=2.5: expected a whole number"),
        (lambda: ClsAttention("3"), "ClsAttention: layer='3': expected a whole number"),
        (lambda: ClsAttention(3, "average"), "heads='average': expected 'mean' or 'sum' or 'max' or a tuple, each"),
        (lambda: ClsEnsemble(3), "layers=3: expected a tuple, each of its items a whole number or a LayersFrom"),
        (lambda: ClsEnsemble(weights=(1.0, float("nan"))), "weights=(1.0, nan): expected a tuple"),
        (lambda: ClsRows((1.5,)), "ClsRows: layers=(1.5,)"),
        (lambda: Random(-1), "Random: seed=-1: expected a whole number from 0 up"),
        (lambda: ImportantDiverse(1.5), "ImportantDiverse: important_ratio=1.5: expected a number from 0 to 1"),
        (lambda: Mass(float("nan")), "Mass: share=nan: expected a number from 0 to 1"),
        (lambda: Stride(0), "Stride: step=0: expected a whole number from 1 up"),
        (lambda: PromptAttention(1, strongest=0), "strongest=0: expected a whole number from 1 up or None"),
        (lambda: TopK("best"), "TopK: order='best': expected 'raster' or 'score'"),
        (lambda: Contextual(cls="no"), "Contextual: cls='no': expected True or False"),
        (lambda: VisionCompressor(Uniform(), 4, positions="packed"), "positions='packed': expected 'repacked' or"),
        (lambda: InformationFlow(-0.5), "InformationFlow: memory=-0.5: expected a number from 0 to 1"),
    ],
)
def test_a_value_of_a_plug_in_that_it_cannot_have_is_named_with_what_was_expected(make, said):
    with pytest.raises(OptionError) as refused:
        make()
    assert said in str(refused.value)


def test_options_of_recipes_are_named_before_they_are_reckoned_with():
    with pytest.raises(OptionError, match=r"layer=2.5: expected a whole number"):
        whole("layer", 2.5)
    with pytest.raises(OptionError, match=r"object_layer=0: expected a whole number from 1 up"):
        hiprune(16, object_layer=0)


@pytest.mark.parametrize("layer", [1.5, True, np.array([1])], ids=repr)
def test_a_layer_that_is_no_number_is_never_looked_for(layer):
    with pytest.raises(OptionError, match="layer="):
        resolve_layer(layer, 24)


def test_a_plug_in_of_another_package_holds_what_it_likes():
    @dataclass(frozen=True)
    class Own(TopK):
        temperature: float = torch.tensor(0.5)

    assert torch.is_tensor(Own().temperature)
