from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from weakref import ref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    MLCDVisionConfig,
    MLCDVisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from foveate.core.compression import Compression
from foveate.core.contracts import Reduction
from foveate.core.errors import FoveateError, LayerError, UnsupportedNeed
from foveate.methods import METHODS
from foveate.models.backbone.tile_tower import selected_states
from foveate.models.backbone.token_reduction import reduced
from foveate.reductions import Bipartite, InformationFlow
from foveate.testing.tiny import tiny_llava
from tests.golden_llava import golden, golden_llava, golden_pixels

PATCHES, FEATURE_LAYER = 36, 4
SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4)
BOTH = pytest.mark.parametrize("reduction", [Bipartite(), InformationFlow()], ids=repr)


@cache
def tiny_tower(kind):
    model, config = {"clip": (CLIPVisionModel, CLIPVisionConfig), "siglip": (SiglipVisionModel, SiglipVisionConfig)}[
        kind
    ]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = model(config(**SIZES, image_size=48, patch_size=8)).eval()
        for name, weight in tower.named_parameters():
            weight.data.normal_().mul_(2 if "q_proj" in name or "k_proj" in name else 1)
            if weight.dim() > 1 and "embedding" not in name:
                weight.data.div_(weight[0].numel() ** 0.5)
    return tower


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def pixels(count=3):
    """Returns images with different amounts of content, so that attention is concentrated differently."""
    noise = torch.randn(count, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    return noise * torch.tensor([0.01, 1.0, 5.0])[:count, None, None, None]


@pytest.mark.parametrize("keep", [192, 128, 64, 32])
def test_information_flow_equals_flowcut(keep):
    expected = golden("flowcut")
    tower = golden_llava().model.vision_tower
    features, compression = reduced(tower, golden_pixels(), InformationFlow(), keep, 22, True)
    np.testing.assert_array_equal(compression.origin, expected[f"n{keep}_idx"])
    assert compression.mixing is None
    if keep <= 64:
        np.testing.assert_allclose(features, expected[f"n{keep}_out"], atol=1e-4)


@pytest.mark.parametrize("keep", [192, 128, 64, 32])
def test_information_flow_drops_as_many_as_flowcut_in_every_block(keep, monkeypatch):
    counts = []

    def counting(self, block, state):
        step, carried = InformationFlow().reduce(block, state)
        counts.append(int(step.count) - 1)
        return step, carried

    spy = type("Spy", (InformationFlow,), {"reduce": counting})()
    reduced(golden_llava().model.vision_tower, golden_pixels(), spy, keep, 22, True)
    assert counts == golden("flowcut")[f"n{keep}_counts"][0, :23].tolist()


@BOTH
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_keeping_all_gives_the_plain_towers_features(reduction, kind):
    has_cls = kind == "clip"
    if reduction.needs_cls and not has_cls:
        return
    plain = tiny_tower(kind)(pixels(), output_hidden_states=True).hidden_states[FEATURE_LAYER + 1]
    features, compression = reduced(tiny_tower(kind), pixels(), reduction, PATCHES, FEATURE_LAYER, has_cls)
    torch.testing.assert_close(features, plain[:, 1:] if has_cls else plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(compression.origin, torch.arange(PATCHES).expand(3, -1))
    assert compression.mixing is None


@BOTH
@pytest.mark.parametrize("keep", [30, 11, 3])
def test_a_batch_gives_what_single_images_give(reduction, keep):
    together, all_of_them = reduced(tiny_tower("clip"), pixels(), reduction, keep, FEATURE_LAYER, True)
    assert together.shape == (3, keep, 32)
    for row in range(3):
        one = pixels()[row : row + 1]
        alone, compression = reduced(tiny_tower("clip"), one, reduction, keep, FEATURE_LAYER, True)
        assert torch.equal(all_of_them.origin[row : row + 1], compression.origin)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_images_of_a_batch_lose_different_numbers_of_patches_on_the_way():
    seen = []

    def watching(self, block, state):
        seen.append(block.real.sum(1).tolist())
        return InformationFlow().reduce(block, state)

    spy = type("Spy", (InformationFlow,), {"reduce": watching})()
    reduced(tiny_tower("clip"), pixels(), spy, 3, FEATURE_LAYER, True)
    assert any(len(set(counts)) > 1 for counts in seen)
    assert seen[-1] == [4, 4, 4]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("keep", [20, 2])
def test_merged_tokens_stand_for_every_patch_once_and_in_raster_order(kind, keep):
    features, compression = reduced(tiny_tower(kind), pixels(), Bipartite(), keep, FEATURE_LAYER, kind == "clip")
    assert features.shape == (3, keep, 32)
    assert compression.mixing.shape == (3, keep, PATCHES)
    assert torch.equal(compression.origin, compression.origin.sort(-1).values)
    assert ((compression.mixing != 0).sum(1) == 1).all()
    assert (compression.size.sum(1) == PATCHES).all()
    size = compression.size[..., None]
    torch.testing.assert_close(compression.mixing, (compression.mixing != 0) / size)
    assert (compression.mixing.gather(2, compression.origin[..., None]) > 0).all()


def naive_merging_tower(tower, image, keep, has_cls):
    """Runs the tower for one image, one head and one token at a time."""
    states = tower.embeddings(image[None])
    states = (tower.pre_layrnorm(states) if has_cls else states)[0]
    tokens = [(state, [i]) for i, state in enumerate(states)]
    schedule = {20: [4, 3, 3, 3, 3], 2: [7, 13, 8, 4, 2]}[keep]
    for layer, merged in zip(tower.encoder.layers, schedule, strict=False):
        states, sizes = torch.stack([t[0] for t in tokens]), torch.tensor([float(len(t[1])) for t in tokens])
        normed, attention = layer.layer_norm1(states), layer.self_attn
        query, key, value = attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)
        heads = [slice(8 * head, 8 * head + 8) for head in range(4)]
        rows = [(query[:, h] @ key[:, h].T / 8**0.5).exp() * sizes for h in heads]
        mixed = [row / row.sum(-1, keepdim=True) @ value[:, h] for row, h in zip(rows, heads, strict=True)]
        states = states + attention.out_proj(torch.cat(mixed, -1))
        metric = sum(key[:, h] for h in heads)
        best = {}
        for i in range(2 if has_cls else 0, len(tokens), 2):
            similarity = F.cosine_similarity(metric[i], metric[1::2], dim=-1)
            best[i] = float(similarity.max()), 2 * int(similarity.argmax()) + 1
        leaving = sorted(best, key=lambda i: -best[i][0])[:merged]
        groups = {i: [i] for i in range(0, len(tokens), 2) if i not in leaving}
        groups |= {i: [i, *(j for j in leaving if best[j][1] == i)] for i in range(1, len(tokens), 2)}
        states = torch.stack([sizes[members] / sizes[members].sum() @ states[members] for members in groups.values()])
        states = states + layer.mlp(layer.layer_norm2(states))
        patches = [[patch for i in members for patch in tokens[i][1]] for members in groups.values()]
        tokens = list(zip(states, patches, strict=True))
    ordered = sorted(tokens[1:] if has_cls else tokens, key=lambda t: t[1][0])
    return torch.stack([t[0] for t in ordered]), [sorted(i - has_cls for i in t[1]) for t in ordered]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("keep", [20, 2])
def test_merging_equals_a_naive_tower(kind, keep):
    features, compression = reduced(tiny_tower(kind), pixels(), Bipartite(), keep, FEATURE_LAYER, kind == "clip")
    for row in range(3):
        expected, members = naive_merging_tower(tiny_tower(kind), pixels()[row], keep, kind == "clip")
        found = [weights.nonzero()[:, 0].tolist() for weights in compression.mixing[row]]
        assert found == members
        torch.testing.assert_close(features[row], expected, rtol=1e-4, atol=1e-5)


def test_dropping_and_merging_may_follow_each_other():
    def both(self, block, state):
        return (Bipartite() if block.layer % 2 else InformationFlow()).reduce(replace(block, keep=9), state)

    mixed = type("Mixed", (InformationFlow,), {"reduce": both})()
    features, compression = reduced(tiny_tower("clip"), pixels()[:1], mixed, 18, FEATURE_LAYER, True)
    assert features.shape[1] == compression.origin.shape[1] == 18
    assert compression.mixing.shape[2] == PATCHES
    assert ((compression.mixing != 0).sum(1) <= 1).all()
    assert (compression.mixing.gather(2, compression.origin[..., None]) > 0).all()
    torch.testing.assert_close(compression.mixing.sum(-1), torch.ones(compression.origin.shape))


def test_without_cls_token_information_flow_says_so():
    with pytest.raises(UnsupportedNeed, match=r"InformationFlow.*SiglipVisionModel has none"):
        reduced(tiny_tower("siglip"), pixels(), InformationFlow(), 9, FEATURE_LAYER, False)


@pytest.mark.parametrize(("layers", "expected"), [(-2, [7]), ((1, -1), [1, 8])])
def test_of_all_hidden_states_only_the_named_ones_are_kept(layers, expected):
    born, alive = [], []

    def run():
        for number in range(9):
            state = torch.full((1, 1, 1), float(number))
            born.append(ref(state))
            yield state
            del state
            alive.append(sum(one() is not None for one in born))

    assert selected_states(run(), layers, 8)[0, 0].tolist() == expected
    assert max(alive) <= len(expected) + 1


@BOTH
@pytest.mark.parametrize("keep", [PATCHES, 11])
def test_the_kernel_that_a_tower_is_configured_with_changes_nothing(reduction, keep):
    tower = deepcopy(tiny_tower("clip"))
    tower.set_attn_implementation("eager")
    features, compression = reduced(tower, pixels(), reduction, keep, FEATURE_LAYER, True)
    expected, same = reduced(tiny_tower("clip"), pixels(), reduction, keep, FEATURE_LAYER, True)
    assert torch.equal(features, expected) and torch.equal(compression.origin, same.origin)
    if keep == PATCHES:
        plain = tower(pixels(), output_hidden_states=True).hidden_states[FEATURE_LAYER + 1]
        torch.testing.assert_close(features, plain[:, 1:], rtol=1e-5, atol=1e-5)


def test_a_tower_whose_blocks_are_of_another_kind_is_refused_by_name():
    """MLCD's blocks have the same parts, but rotate queries and keys by their positions."""
    config = MLCDVisionConfig(**SIZES, image_size=48, patch_size=8, num_key_value_groups=1)
    with pytest.raises(
        UnsupportedNeed, match=r"Bipartite\(\) supports the blocks of CLIP and SigLIP, not MLCDEncoderLayer"
    ):
        reduced(MLCDVisionModel(config), pixels(), Bipartite(), 9, FEATURE_LAYER, True)


@BOTH
def test_features_that_no_block_writes_cannot_be_reduced(reduction):
    with pytest.raises(LayerError, match=r"\): the features are written before block 0"):
        reduced(tiny_tower("clip"), pixels(), reduction, 9, -1, True)


@pytest.mark.parametrize("name", ["tome", "flowcut"])
def test_features_of_several_layers_are_refused_and_of_one_in_a_list_are_not(name):
    model = tiny_llava()
    inputs = {
        "input_ids": torch.tensor([[1, *[model.config.image_token_id] * 144, 5]]),
        "pixel_values": torch.rand(1, 3, 96, 96),
    }
    with METHODS[name](36).attached(model):
        expected = model(**inputs).logits
    model.config.vision_feature_layer = [model.config.vision_feature_layer]
    with METHODS[name](36).attached(model):
        assert torch.equal(model(**inputs).logits, expected)
    model = tiny_llava()
    model.config.vision_feature_layer = [-2, -3]
    with (
        pytest.raises(UnsupportedNeed, match=r"several layers \(vision_feature_layer=\[-2, -3\]\)"),
        METHODS[name](36).attached(model),
    ):
        model(**inputs)


@dataclass(frozen=True)
class Gives(Reduction):
    """A reduction that applies a function to the tokens of the second block."""

    make: Callable[[torch.Tensor], object]

    def reduce(self, block, state):
        everything = torch.arange(block.key.shape[2]).expand(len(block.key), -1)
        return self.make(everything) if block.layer == 1 else (Compression(everything), None)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda tokens: Compression(tokens), "expected a Compression and a tensor or None"),
        (lambda tokens: (tokens, None), "expected a Compression"),
        (lambda tokens: (Compression(tokens), 3), ", 3): expected a Compression and a tensor or None"),
        (lambda tokens: (Compression(tokens[:1]), None), "whole origins of shape (3, any)"),
        (lambda tokens: (Compression(tokens + 1), None), "gave 37 for image 0 of the batch: expected 0..36"),
        (lambda tokens: (Compression(tokens - 3), None), "gave -3 for image 0 of the batch: expected 0..36"),
        (
            lambda tokens: (Compression(tokens, torch.eye(37).expand(3, -1, -1)[:, :, 1:]), None),
            "mixing weights of 36 tokens",
        ),
        (lambda tokens: (Compression(tokens[:, 1:10]), None), "moved or dropped [CLS] in block 1"),
        (lambda tokens: (Compression(tokens[:, :9]), None), "left 8 patches: expected exactly keep=9"),
        (lambda tokens: (Compression(tokens), None), "left 36 patches: expected exactly keep=9"),
    ],
)
def test_a_reduction_that_gives_something_else_is_named_with_what_it_gave(make, expected):
    with pytest.raises(FoveateError) as refused:
        reduced(tiny_tower("clip"), pixels(), Gives(make), 9, FEATURE_LAYER, True)
    assert str(refused.value).startswith("Gives(make=") and expected in str(refused.value)
