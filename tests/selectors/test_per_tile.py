"""Budgets per tile, against each tile chosen from by itself."""

import pickle
from inspect import signature

import pytest
import torch

from foveate.compressors import DecoderCompressor, Pipeline, VisionCompressor
from foveate.core.arrangement import Grid
from foveate.core.errors import FoveateError, UnknownMethod
from foveate.core.needs import Features
from foveate.core.trace import EXTRA, PADDING, Trace
from foveate.methods import METHODS, divprune, fastv, full, vscan, vtc_cls
from foveate.methods.fitting import method, options_for, with_fallbacks
from foveate.models.loading.load import adapt
from foveate.scorers import Random
from foveate.selectors import MaxMin, Outliers, PerTile, TopK
from foveate.testing.families import FAMILIES, image_inputs
from foveate.testing.recomputation import features_of  # what the stock model makes of an image

VIEWS = (Grid(2, 3), Grid(4, 5))
TILES = torch.tensor([0] * 6 + [1, 1, 2, 2, 2] * 2 + [3, 3, 4, 4, 4] * 2)  # sizes 6, 4, 6, 4, 6 of 26


def given(batch=3, tiles=TILES, place=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 26, 5, generator=generator)
    trace = Trace({Features(True): features}, VIEWS, batch, place, tiles)
    return torch.rand(batch, 26, generator=generator), trace


def shares(sizes, keep):
    """Of each tile: its part of the budget, rounded down; what is left goes one by one to the largest."""
    whole = [keep * size // sum(sizes) for size in sizes]
    for tile in sorted(range(len(sizes)), key=lambda t: -sizes[t])[: keep - sum(whole)]:
        whole[tile] += 1
    return whole


@pytest.mark.parametrize("keep", (1, 3, 5, 9, 13, 26))
@pytest.mark.parametrize("selector", [TopK(), MaxMin(), Outliers(0.2)], ids=repr)
def test_every_tile_is_chosen_from_by_itself(selector, keep):
    scores, trace = given()
    chosen = PerTile(selector).select(scores, trace, keep)
    sizes = TILES.bincount().tolist()
    for row in range(3):
        expected = []
        for tile, share in enumerate(shares(sizes, keep)):
            members = (TILES == tile).nonzero()[:, 0]
            alone = Trace({Features(True): trace[Features(True)][row : row + 1, members]}, (Grid(1, len(members)),), 1)
            if share:
                kept = selector.select(scores[row : row + 1, members], alone, share)[0]
                expected += members[kept[kept != PADDING]].tolist()
        assert chosen[row][chosen[row] != PADDING].tolist() == sorted(expected)


def test_without_tiles_every_view_is_one():
    scores, trace = given(tiles=None)
    _, whole = given(tiles=torch.tensor([0] * 6 + [1] * 20))
    for keep in (2, 7, 26):
        assert torch.equal(PerTile().select(scores, trace, keep), PerTile().select(scores, whole, keep))
    kept = PerTile().select(scores, trace, 13)
    assert ((kept < 6).sum(1) == 3).all() and kept.shape == (3, 13)


def test_one_image_of_the_tower_is_one_tile():
    scores = torch.rand(3, 12)
    trace = Trace({}, (Grid(3, 4),), 3)
    assert torch.equal(PerTile().select(scores, trace, 5), TopK().select(scores, trace, 5))


def test_tokens_count_to_the_tile_of_their_place():
    """At a cut some are gone, one stands for many, and rows differ in length."""
    place = torch.tensor([[0, 3, EXTRA, 6, 7, 8, 20, 25], [1, 2, 9, 10, 24, PADDING, PADDING, PADDING]])
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.9, 0.8, 0.7, 0.6, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0]])
    scores = scores.masked_fill(place == PADDING, -torch.inf)
    trace = Trace({}, VIEWS, 2, place, TILES)
    kept = PerTile().select(scores, trace, 7)  # 2, 1, 2, 1 and 1 of the tiles; some have fewer left
    assert kept.tolist() == [[1, 2, 3, 5, 6], [0, 1, 2, 3, 4]]


@torch.no_grad()
def test_tiles_of_a_model_get_what_their_patches_deserve():
    model = FAMILIES["LLaVA-NeXT"]()
    adapter, image = adapt(model), image_inputs("LLaVA-NeXT")[1]  # of nine tiles and the whole image
    run_length = len(features_of(adapter, image)[0])
    (arrangement,) = adapter.arrangements(image, [])
    tiles, patches = torch.tensor(arrangement.tiles), arrangement.patches
    ids = torch.tensor([[5, *[adapter.image_token] * run_length, 9]])
    compressor = VisionCompressor(Random(), 40)
    kept = {}
    for name, some in {"plain": compressor, "tiled": compressor.tiled(True, separators=False)}.items():
        with some.attached(model) as run:
            model.generate(input_ids=ids, **image, max_new_tokens=1)
        kept[name] = tiles[run.kept[0]].bincount(minlength=10).tolist()
        visible = int(run.tokens.per_block[0, 0])
        assert visible == 40 + (len(arrangement.separators) if name == "plain" else 0)
    assert kept["tiled"] == shares(tiles.bincount().tolist(), 40)
    assert kept["plain"] != kept["tiled"]
    assert patches == tiles.numel()


def test_a_name_says_what_happens_to_tiles():
    plain = vtc_cls(8, start_layer=1)
    assert method("vtc_cls+per_tile")(8, start_layer=1) == plain.tiled(per_tile=True)
    assert method("vtc_cls+per_tile")(8).selector == PerTile(TopK())
    assert method("vtc_cls+no_separators")(8).separators is False
    both = method("divprune+no_separators+per_tile")(8)
    assert (both.selector, both.separators) == (PerTile(divprune(8).selector), False)
    assert isinstance(method("vscan+per_tile")(8), Pipeline)
    assert method("vscan+per_tile")(8).parts[1:] == vscan(8).parts[1:]


def test_a_name_says_that_kept_patches_have_their_own_positions():
    assert method("vtc_cls")(8, start_layer=1).repack
    own = method("vtc_cls+own_positions")
    assert own.__name__ == "vtc_cls+own_positions"
    assert own(8, start_layer=1) == vtc_cls(8, start_layer=1).tiled(own_positions=True) and not own(8).repack
    assert not method("vscan+own_positions")(8).parts[0].repack
    assert method("evs+own_positions")(0.25) == METHODS["evs"](0.25)


def test_a_name_that_goes_on_is_a_recipe_like_others():
    recipe = method("vtc_cls+per_tile+no_separators")
    assert recipe.__name__ == "vtc_cls+per_tile+no_separators"
    assert signature(recipe) == signature(METHODS["vtc_cls"])
    assert options_for(recipe, 6, 4) == {"start_layer": 3}
    again = pickle.loads(pickle.dumps(recipe))
    assert again == recipe and again(8) == recipe(8)
    assert recipe(8).plan(26, 2) == vtc_cls(8).plan(26, 2)


def test_a_stand_in_goes_on_with_what_it_wraps():
    model = FAMILIES["LLaVA-OneVision"]()
    assert with_fallbacks(vtc_cls(8, 1), model).tiled(True) == with_fallbacks(vtc_cls(8, 1).tiled(True), model)


def test_what_does_not_choose_after_the_tower_says_so():
    with pytest.raises(UnknownMethod, match=r"'per_title' is unknown.*\+per_tile, \+no_separators, \+own_positions"):
        method("vtc_cls+per_title")
    for compressor in (full(), fastv(8), METHODS["pool"](8)):
        with pytest.raises(FoveateError, match="does not choose among patches after the vision tower"):
            compressor.tiled(per_tile=True)
    assert DecoderCompressor(Random(), 8, 2, PerTile()).plan(26, 4) == (26, 26, 8, 8)
