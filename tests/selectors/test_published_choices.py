"""The choices that the authors' own code made, from the arrays it made them of."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foveate.core.arrangement import Grid
from foveate.core.needs import ClsRows, Features, Need, ReceivedRows
from foveate.core.trace import PADDING, Trace
from foveate.functional.diversity import coverage, determinantal, max_min, thinned
from foveate.functional.matching import cosine
from foveate.functional.ranking import ranked
from foveate.selectors import (
    Anchors,
    ChunkQuota,
    Determinantal,
    FacilityLocation,
    ImportantDiverse,
    LocalAndGlobal,
    MaxMin,
    Outliers,
    OutliersAndStride,
    TopK,
)
from tests.golden_llava import golden, inputs

BUDGETS = [192, 128, 64, 32]


@pytest.fixture(scope="module")
def trunk() -> SimpleNamespace:
    arrays = {name: torch.from_numpy(array) for name, array in golden("trunk").items()}
    return SimpleNamespace(
        patches=arrays["hidden_m2"][:, 1:].double(),
        cls=arrays["cls_attn_mean"][:, 22].double(),
        cls_5=arrays["cls_attn_mean"][:, 5],
        cls_heads=arrays["cls_attn_heads_22"].double(),
        received_8=arrays["global_attn_8"],
        received_22=arrays["global_attn_22"],
    )


def trace(values: dict[Need, torch.Tensor] | None = None) -> Trace:
    return Trace(values or {}, (Grid(24, 24),), 1)


def projected(patches: torch.Tensor, wide: bool) -> torch.Tensor:
    weights = {name: torch.from_numpy(array).double() for name, array in inputs.projector_weights(wide).items()}
    hidden = F.gelu(F.linear(patches, weights["0.weight"], weights["0.bias"]))
    return F.linear(hidden, weights["2.weight"], weights["2.bias"])


@pytest.mark.parametrize("keep", BUDGETS)
def test_max_min_chooses_in_the_order_of_divprune(trunk, keep):
    everything = torch.ones(1, 576, dtype=torch.bool)
    order = max_min(cosine(trunk.patches, trunk.patches), everything, keep)
    np.testing.assert_array_equal(order, golden("divprune")[f"raw_n{keep}_f64_order"])


@pytest.mark.parametrize(("keep", "name"), [*((n, f"n{n}") for n in BUDGETS), (56, "n098")])
def test_max_min_of_projected_features_equals_divprune(trunk, keep, name):
    features = projected(trunk.patches, wide=False).float()
    kept = MaxMin().select(torch.zeros(1, 576), trace({Features(True): features}), keep)
    np.testing.assert_array_equal(kept, golden("divprune")[f"{name}_idx"])


@pytest.mark.parametrize("keep", BUDGETS)
def test_determinantal_equals_cdpruner(trunk, keep):
    arrays = golden("cdpruner")
    relevance = torch.from_numpy(arrays["relevance"])
    features = projected(trunk.patches, wide=True)
    quality = relevance.double()
    kernel = quality[:, :, None] * cosine(features, features) * quality[:, None]
    order = determinantal(kernel, torch.ones(1, 576, dtype=torch.bool), keep)
    np.testing.assert_array_equal(order, arrays[f"n{keep}_f64_order"])
    for exact in (features, features.float()):
        kept = Determinantal().select(relevance, trace({Features(True): exact}), keep)
        np.testing.assert_array_equal(kept, arrays[f"n{keep}_f64_idx"])
        np.testing.assert_array_equal(kept, arrays[f"n{keep}_idx"])


SCOPE = [("multi", 1.0, keep) for keep in BUDGETS] + [("multi", 0.5, 64), ("add", 1.0, 64), ("add", 0.5, 64)]


@pytest.mark.parametrize(("combine", "alpha", "keep"), SCOPE)
def test_facility_location_equals_scope(trunk, combine, alpha, keep):
    arrays = golden("scope")
    name = f"{combine}_a{100 * alpha:.0f}_n{keep}"
    scores = trunk.cls_heads.sum(1)
    kept = FacilityLocation(alpha, combine).select(scores, trace({Features(): trunk.patches}), keep)
    np.testing.assert_array_equal(kept, np.sort(arrays[f"{name}_f64_order"]))
    np.testing.assert_array_equal(kept, arrays[f"{name}_idx"])
    if combine == "multi":
        everything = torch.ones(1, 576, dtype=torch.bool)
        cover = cosine(trunk.patches, trunk.patches)
        order = coverage(cover, scores**alpha, torch.zeros_like(scores), everything, keep)
        np.testing.assert_array_equal(order, arrays[f"{name}_f64_order"])


VISPRUNER = [(0.5, keep) for keep in BUDGETS] + [(0.25, 64), (0.75, 64), (1.0, 64), (0.0, 64)]


@pytest.mark.parametrize(("ratio", "keep"), VISPRUNER)
def test_important_and_diverse_equal_vispruner(trunk, ratio, keep):
    arrays, name = golden("vispruner"), f"r{100 * ratio:.0f}_n{keep}"
    kept = ImportantDiverse(ratio).select(trunk.cls, trace({Features(): trunk.patches}), keep)
    np.testing.assert_array_equal(kept, arrays[f"{name}_f64_idx"])
    important = int(ratio * keep)
    if important < keep:
        queue = ranked(trunk.cls, 576)[:, important:]
        left = thinned(cosine(trunk.patches, trunk.patches), queue, keep - important)
        np.testing.assert_array_equal(left, arrays[f"{name}_f64_diverse"])


@pytest.mark.parametrize("name", ["base", "plus", "base_n192", "base_n128", "base_n64", "base_n32"])
def test_outliers_with_and_without_stride_and_fixed_numbers_equal_prumerge_in_its_order(name):
    arrays = golden("prumerge")
    expected = arrays[f"{name}_img0_idx"][None]
    selector = {"base": Outliers(order="score"), "plus": OutliersAndStride()}.get(name, TopK("score"))
    keep = 576 if name in ("base", "plus") else expected.shape[1]
    np.testing.assert_array_equal(selector.select(torch.from_numpy(arrays["scores"]), trace(), keep), expected)


@pytest.mark.parametrize(("budget", "outliers", "stride"), [(64, 13, 11), (128, 40, 6), (192, 95, 3)])
def test_a_fixed_number_of_outliers_and_a_fixed_stride_equal_the_prumerge_of_vtc_cls(budget, outliers, stride):
    arrays = golden("prumerge_vtc")
    selector = OutliersAndStride(outliers=outliers, stride=stride)
    kept = selector.select(torch.from_numpy(arrays["scores"]), trace(), 576)
    np.testing.assert_array_equal(kept, arrays[f"plus_n{budget}_img0_idx"][None])


def test_outliers_in_raster_order_equal_trim():
    arrays = golden("trim")
    kept = Outliers().select(torch.from_numpy(arrays["scores"]), trace(), 576)
    np.testing.assert_array_equal(kept, arrays["auto_img0_idx"][None])


@pytest.mark.parametrize("keep", BUDGETS)
@pytest.mark.parametrize("chunks", [16, 8])
def test_chunk_quotas_equal_holov_in_its_order(trunk, chunks, keep):
    expected = golden("holov")[f"p{chunks}_n{keep}_order"]
    kept = ChunkQuota(chunks).select(trunk.cls, trace(), keep)
    np.testing.assert_array_equal(F.pad(kept, (0, keep - kept.shape[1]), value=PADDING), expected)


@pytest.mark.parametrize("keep", BUDGETS)
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_anchors_equal_hiprune(trunk, alpha, keep):
    answers = trace({ReceivedRows(8): trunk.received_8[:, None]})
    kept = Anchors(alpha).select(trunk.received_22, answers, keep)
    expected = golden("hiprune")
    np.testing.assert_array_equal(kept, expected[f"l9_a{100 * alpha:.0f}_n{keep}_idx"])
    shallow = expected[f"l9_a{100 * alpha:.0f}_n{keep}_img0_shallow"]
    only_anchors = Anchors(alpha).select(torch.full((1, 576), -1.0), answers, keep)
    assert set(shallow.tolist()) <= set(only_anchors[0].tolist())


@pytest.mark.parametrize("keep", [288, 192, 96])
def test_local_and_global_equal_vscan_computed_window_by_window(trunk, keep):
    local = set()
    early = trunk.cls_5[0].numpy().reshape(24, 24)
    for top in range(0, 24, 6):
        for left in range(0, 24, 6):
            window = early[top : top + 6, left : left + 6]
            for place in np.argsort(-window, axis=None, kind="stable")[: int(keep / 2) // 16]:
                local.add((top + place // 6) * 24 + left + place % 6)
    late = np.where(np.isin(np.arange(576), list(local)), 0, trunk.cls[0].numpy())
    both = local | set(np.argsort(-late, kind="stable")[: keep - int(keep / 2)].tolist())
    kept = LocalAndGlobal().select(trunk.cls, trace({ClsRows((5,)): trunk.cls_5[:, None, None]}), keep)
    assert kept[0].tolist() == sorted(both)
    assert len(both) == LocalAndGlobal().expected(keep, 576, 576) == keep
