"""The golden sets of methods between tower and language model that joined later: recipes attached to a stock LLaVA.

Beside the kept patches, the functions give the order in which the authors' code chose them, where the files have it.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel

from foveate.core.arrangement import Grid
from foveate.core.budget import resolve_keep
from foveate.core.needs import AlignedPatches, AlignedWords, ClsRows, Features, ReceivedRows
from foveate.core.trace import EXTRA, Trace
from foveate.functional.diversity import by_nearest
from foveate.functional.matching import cosine
from foveate.functional.principal import principal_loadings
from foveate.functional.scaling import min_max
from foveate.functional.sensitivity import random_directions, sensitivity
from foveate.functional.suppression import group_quotas, survivors
from foveate.mergers import TextCentres
from foveate.methods import METHODS
from foveate.models.backbone.text_encoder import Companion
from foveate.models.loading.load import adapt
from tests.golden_llava import GOLDEN, exact_llava, golden, golden_llava, golden_pixels, golden_tiles, inputs
from tests.test_conformance import BUDGETS, compressed, tokens_before_projector

ALL = torch.ones(1, 576, dtype=torch.bool)


@pytest.fixture(scope="module")
def trunk():
    """Features before and after the projector, and [CLS] attention of layer 22, in float64."""
    arrays = golden("trunk")
    patches = torch.from_numpy(arrays["hidden_m2"][:, 1:]).double()
    projector = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)).double()
    inputs.load_projector(projector)
    with torch.no_grad():
        projected = projector(patches)
    scores = torch.from_numpy(arrays["cls_attn_mean"][:, 22]).double()
    return SimpleNamespace(patches=patches, projected=projected, projector=projector, scores=scores)


@pytest.mark.parametrize("keep", BUDGETS)
@pytest.mark.parametrize(("name", "seed"), [("exact", None), ("npR", 31)])
def test_prunesid(name, seed, keep, trunk):
    """The order too, from the golden features and from the model; the file's Gaussian matrix is that of seed 31."""
    expected = golden("prunesid")[f"{name}_n{keep}_order"]
    recipe, scores = METHODS["prunesid"](keep, seed=seed), torch.from_numpy(golden("trunk")["cls_attn_heads_22"]).sum(1)
    kept = recipe.selector.select(scores, Trace({Features(): trunk.patches}, (Grid(24, 24),), 1), keep - 1)
    np.testing.assert_array_equal(kept, expected[:, 1:])
    run = compressed(recipe)
    np.testing.assert_array_equal(run.decisions[0].compression.origin[0], np.where(expected[0] < 0, EXTRA, expected[0]))
    if name == "exact" and keep == 64:
        np.testing.assert_allclose(tokens_before_projector(run), golden("prunesid")["exact_n64_img0_out"], atol=1e-4)


@pytest.mark.parametrize("keep", BUDGETS)
@pytest.mark.parametrize(("name", "seed"), [("exact", None), ("npR", 31)])
def test_groups_survivors_and_quotas_of_prunesid(name, seed, keep, trunk):
    expected = golden("prunesid")
    loadings = principal_loadings(trunk.patches.sigmoid(), keep // 4, seed).abs()
    group = loadings.argmax(-1)
    np.testing.assert_array_equal(group, expected[f"{name}_n{keep}_group"])
    similarity = cosine(trunk.patches, trunk.patches)
    threshold = keep / 32 * similarity[:, *np.triu_indices(576, 1)].mean(1)
    scores = torch.from_numpy(golden("trunk")["cls_attn_heads_22"]).sum(1)
    alive = survivors(similarity, scores, group, threshold)
    surviving = group[alive].bincount(minlength=keep // 4)[None]
    np.testing.assert_array_equal(surviving, expected[f"{name}_n{keep}_nms_count"])
    quota = group_quotas(group[0].bincount(minlength=keep // 4)[None], surviving, keep - 1, keep)
    np.testing.assert_array_equal(quota, expected[f"{name}_n{keep}_quota"])


@pytest.mark.parametrize("keep", BUDGETS)
def test_prunesid_of_qwen(keep, trunk):
    expected = golden("prunesid_qwen")[f"qwen_exact_n{keep}_order"]
    recipe = METHODS["prunesid_qwen"](keep)
    trace = Trace({Features(True): trunk.projected}, (Grid(24, 24),), 1)
    np.testing.assert_array_equal(recipe.selector.select(trunk.scores, trace, keep), expected)
    run = compressed(recipe)
    np.testing.assert_array_equal(run.decisions[0].compression.origin, expected)


def test_prunesid_of_qwen_scales_its_budget_with_the_image(trunk):
    recipe, grid = METHODS["prunesid_qwen"](64 / 576), Grid(12, 25)
    keep = resolve_keep(recipe.keep, grid.patches)
    trace = Trace({Features(True): trunk.projected[:, :300]}, (grid,), 1)
    kept = recipe.selector.select(trunk.scores[:, :300], trace, keep)
    np.testing.assert_array_equal(kept[0], golden("prunesid_qwen")["qwen_exact_N300_T64"])


def test_prunesid_of_several_seeds_keeps_other_patches():
    runs = [set(compressed(METHODS["prunesid"](64, seed=seed)).kept[0].tolist()) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert 0.2 < len(runs[0] & runs[2]) / len(runs[0] | runs[2]) < 0.9


MMR = sorted(name for name in golden("mmr") if name.startswith("idpruner"))


@pytest.mark.parametrize("name", MMR)
def test_marginal_relevance_chooses_in_the_order_of_idpruner(name, trunk):
    balance, keep = (int(part[1:]) for part in name.split("_")[1:3])
    weight, at_once = (100 - balance) / balance, 8 if "_k8_" in name else 1
    scores, similarity = min_max(trunk.scores, ALL, widened=1e-6), cosine(trunk.projected, trunk.projected)
    order = by_nearest(similarity, scores, lambda closest: scores - weight * closest, ALL, keep, at_once)
    np.testing.assert_array_equal(order, golden("mmr")[name])
    selector = METHODS["mmr"](keep, weight=weight, at_once=at_once).selector
    kept = selector.select(trunk.scores, Trace({Features(True): trunk.projected}, (Grid(24, 24),), 1), keep)
    np.testing.assert_array_equal(kept, np.sort(golden("mmr")[name]))


@pytest.mark.parametrize("keep", BUDGETS)
def test_mmr_attached(keep):
    run = compressed(METHODS["mmr"](keep), exact_llava())
    np.testing.assert_array_equal(run.kept[0], np.sort(golden("mmr")[f"idpruner_l50_n{keep}_order"][0]))
    unlike = compressed(METHODS["mmr"](keep, weight=0.3, clamped=True), exact_llava())
    np.testing.assert_array_equal(unlike.kept[0], golden("mmr")[f"uniattn_l30_n{keep}_idx"][0])


@pytest.mark.parametrize("keep", BUDGETS)
def test_zoo_prune(keep, trunk):
    expected = golden("zoo_prune")
    directions = random_directions(64, 64, 1000)  # those of the file are drawn with this seed
    with torch.no_grad():
        scores = sensitivity(trunk.projector, trunk.patches, directions, 0.01)
    np.testing.assert_allclose(scores, expected["sensitivity"], rtol=1e-9)
    weight = min_max(scores, ALL, widened=1e-8)
    similarity = cosine(trunk.projected, trunk.projected)
    order = by_nearest(similarity, weight, lambda closest: weight * (1 - closest), ALL, keep)
    np.testing.assert_array_equal(order, expected[f"n{keep}_order"])
    run = compressed(METHODS["zoo_prune"](keep, seed=1000), exact_llava())
    np.testing.assert_array_equal(run.kept[0], np.sort(expected[f"n{keep}_order"][0]))
    np.testing.assert_allclose(run.scores[0], expected["sensitivity"][0], rtol=1e-5)


@pytest.mark.parametrize(("share", "keep"), [(0.3334, 192), (0.2223, 128), (0.1112, 64), (0.0556, 32)])
def test_zoo_prune_counts_a_fraction_as_the_authors_do(share, keep):
    run = compressed(METHODS["zoo_prune"](share, seed=1000), exact_llava())
    assert run.kept[0].tolist() == sorted(golden("zoo_prune")[f"n{keep}_order"][0].tolist())


def test_zoo_prune_of_another_seed_keeps_other_patches():
    first, second = (set(compressed(METHODS["zoo_prune"](64, seed=seed)).kept[0].tolist()) for seed in (0, 1))
    assert 0.2 < len(first & second) / len(first | second) < 0.9


@pytest.mark.parametrize("keep", (*BUDGETS, 0.2))
def test_hired_without_tiles(keep):
    run = compressed(METHODS["hired"](keep))
    name = 115 if keep == 0.2 else keep
    np.testing.assert_array_equal(run.kept[0], golden("hired")[f"llava15_n{name}_idx"][0])


@pytest.fixture(scope="module")
def visiontrim_trace():
    """The answers that VisionTrim reads about the golden image and the first golden question, in float64."""
    clip = CLIPModel(CLIPConfig(text_config=inputs.CLIP_TEXT, vision_config=inputs.CLIP_VISION, projection_dim=32))
    vision, text = inputs.clip_vision_weights(), inputs.clip_text_weights()
    inputs.load_clip_text(clip.text_model, text)
    clip.visual_projection.weight.data = torch.from_numpy(vision["visual_projection.weight"])
    clip.text_projection.weight.data = torch.from_numpy(text["text_projection.weight"])
    companion, adapter = Companion(clip.eval().double(), None), adapt(exact_llava())
    images, needs = {"pixel_values": golden_pixels().double()}, METHODS["visiontrim"](64).scorer.needs
    with torch.no_grad():
        sources, values = adapter.encode(images, adapter.arrangements(images, [])[0], needs)
    values[AlignedPatches(normed=False)] = companion.patches(sources[:, :576], normed=False)
    values[AlignedWords()] = companion.embed_words(inputs.text_tokens()[:1])
    return sources, Trace(values, (Grid(24, 24),), 1)


@pytest.mark.parametrize(("dominant", "centres"), [(48, 16), (96, 32), (144, 48), (24, 8)])
def test_visiontrim(dominant, centres, visiontrim_trace):
    expected, name = golden("visiontrim"), f"d{dominant}_c{centres}_img0"
    sources, trace = visiontrim_trace
    np.testing.assert_allclose(trace[AlignedWords()][0], expected["text_proj_img0"], atol=1e-5)
    received = trace[ReceivedRows(-2, others=True)].mean(1)
    np.testing.assert_allclose(received[0], expected["received_img0"], rtol=1e-5)
    recipe = METHODS["visiontrim"](dominant + centres)
    scores = recipe.scorer.score(trace)
    kept = recipe.selector.select(scores, trace, dominant)
    np.testing.assert_array_equal(kept[0], expected[f"{name}_dominant"])
    made = recipe.merger.merge(sources, kept, scores, trace, dominant + centres)
    assert made.origin.tolist() == [[*kept[0].tolist(), *[EXTRA] * centres]]
    context = expected[f"{name}_context"]
    np.testing.assert_allclose(made.apply(sources)[0, dominant : dominant + len(context)], context, atol=1e-4)
    first = replace(recipe.merger, rounds=0).merge(sources, kept, scores, trace, dominant + centres)
    np.testing.assert_array_equal(first.mixing[0, dominant:].argmax(1), expected[f"{name}_centres"])


def test_visiontrim_gathers_in_every_round_what_the_authors_gather(visiontrim_trace):
    sources, trace = visiontrim_trace
    expected = golden("visiontrim")
    kept = torch.from_numpy(expected["d48_c16_img0_dominant"]).long()[None]
    scores = torch.zeros(1, 576)
    rows = [TextCentres(rounds=r).merge(sources, kept, scores, trace, 64).mixing[0, 48:] for r in range(4)]
    rest = np.setdiff1d(np.arange(576), np.concatenate([kept[0], expected["d48_c16_img0_centres"]]))
    for before, after, joined in zip(rows, rows[1:], expected["d48_c16_img0_assign"], strict=False):
        np.testing.assert_array_equal((after - before)[:, rest].argmax(0), joined)


HIRED = json.loads((GOLDEN / "hired.json").read_text())["stats"]
GRIDS = {"sq": (2, 2), "wide": (1, 2), "tall": (3, 1)}
SIZES = {"sq": (600, 640), "wide": (300, 660), "tall": (1000, 300)}


@pytest.fixture(scope="module")
def tile_attention():
    """[CLS] attention of layer 0 of the whole image, and of layer 22 of every tile, by case."""
    rng, found = np.random.default_rng(911), {}  # the tiles of the golden file
    for case, (rows, columns) in GRIDS.items():
        tower = adapt(golden_llava()).tiles
        needs = {ClsRows((0,)): (0,), ClsRows((22,)): (22,)}
        with torch.no_grad():
            _, answers = tower.encode(golden_tiles(1 + rows * columns, rng), needs)
        early, late = (answers[need][:, 0].sum(1) for need in needs)
        found[case] = early[0], late
    return found


def published_layout(name, case, kept):
    """The tokens as the authors' code lays them out: tile by tile on their grid, unpadded, in raster order."""
    tiles_down, tiles_across = HIRED[name]["grid_hw"]  # transposed, if the grid is not square
    every = np.arange(tiles_down * tiles_across * 576).reshape(tiles_down, tiles_across, 24, 24) + 576
    grid = every.transpose(0, 2, 1, 3).reshape(tiles_down * 24, tiles_across * 24)
    (height, width), (rows, columns) = SIZES[case], grid.shape
    if width / height > columns / rows:
        padding = (rows - int(height * (columns / width))) // 2
        grid = grid[padding : rows - padding]
    else:
        padding = (columns - int(width * (rows / height))) // 2
        grid = grid[:, padding : columns - padding]
    return [token for token in (*range(576), *grid.flatten()) if token in kept]


@pytest.mark.parametrize("name", HIRED)
def test_hired_with_tiles(name, tile_attention):
    """Budgets and patches before unpadding; and the authors' sequence, if the choice is laid out as they do it."""
    expected, case = golden("hired"), name.split("_")[1]
    rate, alpha = (int(part[1:]) / 100 for part in name.split("_")[2:])
    early, late = tile_attention[case]
    np.testing.assert_allclose(early, expected[f"next_{case}_cls0_full"], rtol=1e-4)
    np.testing.assert_allclose(late[: len(expected[f"next_{case}_cls22"])], expected[f"next_{case}_cls22"], rtol=1e-4)
    rows, columns = (24 * side for side in GRIDS[case])
    row, column = np.divmod(np.arange(rows * columns), columns)
    tiles = np.concatenate([np.zeros(576, int), 1 + row // 24 * GRIDS[case][1] + column // 24])
    patch = np.concatenate([np.arange(576), row % 24 * 24 + column % 24])
    first = torch.cat([early, torch.zeros(rows * columns)])
    views = (Grid(24, 24), Grid(rows, columns))
    trace = Trace({ClsRows((0,)): first[None, None, None]}, views, 1, None, torch.from_numpy(tiles))
    recipe = METHODS["hired"](rate, alpha)
    kept = recipe.selector.select(late[tiles, patch][None], trace, resolve_keep(recipe.keep, trace.patches))[0]
    chosen = (tiles * 576 + patch)[kept.numpy()]
    assert np.bincount(chosen // 576).tolist() == [HIRED[name]["full"], *HIRED[name]["sub"]]
    mask = np.unpackbits(expected[f"{name}_mask"], axis=1)
    np.testing.assert_array_equal(np.isin(np.arange(mask.size), chosen), mask.flatten())
    np.testing.assert_array_equal(published_layout(name, case, set(chosen)), expected[f"{name}_order"])
