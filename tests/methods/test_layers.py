"""Layers of every method on every tested model, against a table of the numbers that recorded studies have used."""

import inspect
import math
import pickle

import pytest

from foveate.compressors import Compressor, VisionCompressor
from foveate.core.layers import AtDepth, BlockAtDepth
from foveate.evaluation.identity import identity_of
from foveate.methods import METHODS
from foveate.methods.fitting import for_model, options_for, options_on
from foveate.models.loading.load import adapt, load
from foveate.scorers import ClsAttention
from foveate.testing.families import FAMILIES

# by layers of the tower, blocks of the language model and levels of DeepStack; methods in the order of `SCALED`
LAYERS = {
    (4, 4, 0): [1, 2, 2, 1, (1, 2, 3), (0, 1, 2), (0, 1, 2), 1, (1, 2), 2, (1, 2)],
    (4, 6, 2): [2, 2, 2, 2, (2, 3, 4), (1, 2, 3), (1, 2, 3), 2, (2, 3), 3, (1, 3)],
    (6, 4, 0): [1, 3, 3, 1, (1, 2, 3), (0, 1, 2), (0, 1, 2), 1, (1, 2), 2, (1, 2)],
    (8, 8, 0): [1, 5, 3, 1, (2, 4, 6), (0, 2, 4), (0, 2, 4), 1, (2, 4), 4, (2, 4)],
    (12, 6, 3): [3, 8, 5, 3, (3, 4, 5), (2, 3, 4), (2, 3, 4), 3, (3, 4), 3, (2, 3)],
    (24, 3, 0): [1, 16, 9, 1, (1, 2, 3), (0, 1, 2), (0, 1, 2), 1, (1, 2), 1, (5, 2)],
    (24, 8, 0): [1, 16, 9, 1, (2, 4, 6), (0, 2, 4), (0, 2, 4), 1, (2, 4), 4, (5, 4)],
    (24, 32, 0): [2, 16, 9, 2, (8, 16, 24), (2, 6, 15), (2, 6, 15), 2, (8, 16), 15, (5, 16)],
    (24, 40, 0): [2, 16, 9, 2, (10, 20, 30), (2, 8, 19), (2, 8, 19), 2, (10, 20), 19, (5, 20)],
    (26, 28, 0): [2, 17, 10, 2, (7, 14, 21), (2, 5, 13), (2, 5, 13), 2, (7, 14), 13, (5, 14)],
    (27, 36, 3): [3, 18, 10, 3, (9, 18, 27), (2, 7, 17), (2, 7, 17), 3, (9, 18), 17, (6, 18)],
    (32, 28, 0): [2, 22, 12, 2, (7, 14, 21), (2, 5, 13), (2, 5, 13), 2, (7, 14), 13, (7, 14)],
}
VIDEOS = {  # by blocks of the language model and levels of DeepStack; sttm, prunevid, holitom, flashvid
    (3, 0): (1, 1, 2, 2),
    (4, 0): (1, 1, 3, 3),
    (6, 2): (2, 2, 4, 4),
    (6, 3): (3, 3, 4, 4),
    (8, 0): (1, 3, 5, 6),
    (28, 0): (2, 10, 18, 20),
    (32, 0): (2, 11, 21, 23),
    (36, 3): (3, 12, 23, 26),
    (40, 0): (3, 14, 26, 29),
}
SCALED = ("random_inside", "vtc_cls", "hiprune", "fastv", "pyramiddrop", "sparsevlm", "sparsevlm_plus", "dart")
SCALED = (*SCALED, "feather", "vtw", "vscan")


def expected(name, depths):
    """The options of a method at these depths."""
    if name == "ficoco_v":  # half of the tower
        return {"start_layer": math.floor(depths[0] / 2 + 0.5)}
    if name == "fitprune":  # from the first block before which tokens may go to the last
        return {"blocks": (max(1, depths[2]), depths[1] - 1)}
    if name == "apet":  # VScan's block
        return {"layer": LAYERS[depths][SCALED.index("vscan")][1]}
    if name in ("sttm", "prunevid", "holitom", "flashvid"):
        return {"layer": VIDEOS[depths[1:]][("sttm", "prunevid", "holitom", "flashvid").index(name)]}
    if name not in SCALED:
        return {}
    numbers = LAYERS[depths][SCALED.index(name)]
    match name:
        case "vtc_cls":
            return {"start_layer": numbers}
        case "hiprune":
            return {"object_layer": numbers}
        case "pyramiddrop" | "feather":
            return {"layers": numbers}
        case "sparsevlm" | "sparsevlm_plus":
            return {"after": numbers}
        case "vscan":
            return dict(zip(("local_layer", "layer"), numbers, strict=True))
    return {"layer": numbers}


@pytest.mark.parametrize("depths", LAYERS, ids=str)
def test_every_method_has_the_layers_of_the_table(depths):
    for name, recipe in METHODS.items():
        options = options_for(recipe, *depths)
        assert options == expected(name, depths), name
        assert "AtDepth" not in repr(options)  # plain numbers, as records have them


@pytest.mark.parametrize("model", [*FAMILIES, "reference"])
def test_every_family_has_the_layers_of_the_table(model):
    adapter = load().adapter if model == "reference" else adapt(FAMILIES[model]())
    depths = (adapter.tower.depth, adapter.decoder.depth, adapter.deepstack_levels)
    for name, recipe in METHODS.items():
        without_cls = {"cls": False} if name in ("visionzip", "prunesid") and not adapter.keeps_cls else {}
        assert options_on(recipe, adapter) == expected(name, depths) | without_cls, name


@pytest.mark.parametrize("name", METHODS)
def test_without_a_model_a_recipe_has_the_layers_of_its_authors(name):
    given = {n: p.default for n, p in inspect.signature(METHODS[name]).parameters.items() if n != "keep"}
    assert "AtDepth" not in repr(METHODS[name](keep=64))
    assert METHODS[name](keep=64) == METHODS[name](keep=64, **given)


def middle(keep: int, tower: int = AtDepth(12, of=24), deepest: int = 3) -> Compressor:
    return VisionCompressor(ClsAttention(tower), keep + deepest)


def test_a_recipe_of_ones_own_scales_what_it_declares_whatever_its_name():
    assert options_for(middle, 6, 4) == {"tower": 3}
    assert for_model(f"{__name__}:middle", 8, {}, load().adapter) == middle(8, 4)
    assert middle(8) == middle(8, 12)


def test_a_layer_at_a_depth_is_an_int_that_can_be_copied_and_identified():
    layer, block = AtDepth(9, of=24, offset=1), BlockAtDepth(2, of=32)
    assert (layer, repr(layer), repr(block)) == (9, "AtDepth(9, of=24)", "BlockAtDepth(2, of=32)")
    again = pickle.loads(pickle.dumps(layer))
    assert (type(again), again, again.of, again.offset) == (AtDepth, 9, 24, 1)
    assert identity_of(layer) == identity_of(again)
    assert len({identity_of(one) for one in (layer, AtDepth(9, of=24), AtDepth(9, of=25, offset=1), 9)}) == 4
