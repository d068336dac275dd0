"""The golden sets of methods between tower and language model that joined later: recipes attached to a stock LLaVA.

Beside the kept patches, the functions give the order in which the authors' code chose them, where the files have it.
"""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from foveate.core.arrangement import Grid
from foveate.core.needs import Features
from foveate.core.trace import Trace
from foveate.functional.diversity import by_nearest
from foveate.functional.matching import cosine
from foveate.functional.scaling import min_max
from foveate.functional.sensitivity import random_directions, sensitivity
from foveate.methods import METHODS
from tests.golden_llava import golden, golden_llava, golden_pixels, golden_prompt, inputs

BUDGETS = (192, 128, 64, 32)
ALL = torch.ones(1, 576, dtype=torch.bool)


@pytest.fixture(scope="module")
def exact_llava():
    """In float64, as the authors' code ran for these files."""
    return deepcopy(golden_llava()).double()


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


def compressed(compressor, model=None, pixels=None):
    model = golden_llava() if model is None else model
    pixels = (golden_pixels() if pixels is None else pixels).to(model.dtype)
    with torch.no_grad(), compressor.attached(model) as run:
        model.generate(input_ids=golden_prompt(), pixel_values=pixels, max_new_tokens=1, do_sample=False)
    return run


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
def test_mmr_attached(keep, exact_llava):
    run = compressed(METHODS["mmr"](keep), exact_llava)
    np.testing.assert_array_equal(run.kept[0], np.sort(golden("mmr")[f"idpruner_l50_n{keep}_order"][0]))
    unlike = compressed(METHODS["mmr"](keep, weight=0.3, clamped=True), exact_llava)
    np.testing.assert_array_equal(unlike.kept[0], golden("mmr")[f"uniattn_l30_n{keep}_idx"][0])


@pytest.mark.parametrize("keep", BUDGETS)
def test_zoo_prune(keep, trunk, exact_llava):
    expected = golden("zoo_prune")
    directions = random_directions(64, 64, 1000)  # those of the file are drawn with this seed
    with torch.no_grad():
        scores = sensitivity(trunk.projector, trunk.patches, directions, 0.01)
    np.testing.assert_allclose(scores, expected["sensitivity"], rtol=1e-9)
    weight = min_max(scores, ALL, widened=1e-8)
    similarity = cosine(trunk.projected, trunk.projected)
    order = by_nearest(similarity, weight, lambda closest: weight * (1 - closest), ALL, keep)
    np.testing.assert_array_equal(order, expected[f"n{keep}_order"])
    run = compressed(METHODS["zoo_prune"](keep, seed=1000), exact_llava)
    np.testing.assert_array_equal(run.kept[0], np.sort(expected[f"n{keep}_order"][0]))
    np.testing.assert_allclose(run.scores[0], expected["sensitivity"][0], rtol=1e-5)


@pytest.mark.parametrize(("share", "keep"), [(0.3334, 192), (0.2223, 128), (0.1112, 64), (0.0556, 32)])
def test_zoo_prune_counts_a_fraction_as_the_authors_do(share, keep, exact_llava):
    run = compressed(METHODS["zoo_prune"](share, seed=1000), exact_llava)
    assert run.kept[0].tolist() == sorted(golden("zoo_prune")[f"n{keep}_order"][0].tolist())


def test_zoo_prune_of_another_seed_keeps_other_patches():
    first, second = (set(compressed(METHODS["zoo_prune"](64, seed=seed)).kept[0].tolist()) for seed in (0, 1))
    assert 0.2 < len(first & second) / len(first | second) < 0.9
