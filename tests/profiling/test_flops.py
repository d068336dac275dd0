import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaModel, LlavaConfig, SiglipVisionConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from foveate.core.arrangement import Grid
from foveate.core.errors import FoveateError
from foveate.models.loading.load import adapt
from foveate.profiling.flops import (
    CONVENTIONS,
    Convention,
    decoder_macs,
    operations,
    prefill_flops,
    projector_macs,
    tower_macs,
)
from foveate.profiling.shapes import DecoderShape, ModelShape, ProjectorShape, TowerShape
from foveate.testing.families import FAMILIES, SPREAD

LLAMA_7B = DecoderShape(blocks=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, head_dim=128)
CLIP_L_336 = TowerShape(blocks=24, hidden=1024, intermediate=4096, patch_values=3 * 14**2)
PROJECTOR = ProjectorShape((1024, 4096, 4096))
LLAVA_VISION = tower_macs(CLIP_L_336, [Grid(24, 24)]) + projector_macs(PROJECTOR, 576)
NO_TEXT = np.array(0)


def by(name: str, tokens: np.ndarray, text: int = 64) -> float:
    """Returns the teraoperations of LLaVA-1.5-7B."""
    return float(operations(tokens, np.array(text), LLAMA_7B, LLAVA_VISION, CONVENTIONS[name])) / 1e12


@pytest.mark.parametrize(("tokens", "published"), [(576, 3.817), (192, 1.253), (128, 0.833), (64, 0.416)])
def test_macs_of_visual_tokens_of_llava_are_the_published_ones(tokens, published):
    assert by("PyramidDrop", np.full(32, tokens)) == pytest.approx(published, abs=6e-4)


def test_pyramid_drop_costs_the_published_macs():
    assert by("PyramidDrop", np.repeat([576, 288, 144, 72], 8)) == pytest.approx(1.777, abs=6e-4)


def test_the_formula_of_fastv_has_two_ffn_matrices():
    assert by("FastV", np.full(32, 576)) == pytest.approx(2.986, abs=6e-4)


@pytest.mark.parametrize(("visual", "teraflops"), [(576, 8.504), (192, 3.350), (128, 2.506), (64, 1.666)])
def test_flops_of_the_language_model_count_the_text_too(visual, teraflops):
    tokens = np.full(32, visual)
    assert by("language model", tokens) == pytest.approx(teraflops, abs=6e-4)
    assert prefill_flops(tokens, np.array(64), LLAMA_7B) / 1e12 == by("language model", tokens)


def test_by_default_tower_projector_and_all_tokens_count():
    assert by("foveate", np.full(32, 576)) == pytest.approx(8.910, abs=6e-4)
    assert by("foveate", np.full(32, 64)) == pytest.approx(2.073, abs=6e-4)  # with all 576 patches projected


def test_every_field_of_a_convention_changes_the_number_and_its_name():
    tokens, text = np.full(32, 576), np.array(64)
    variants = [Convention(), Convention(macs=True), Convention(visual_only=True), Convention(ffn_matrices=2)]
    variants.append(Convention(vision=False))
    found = [float(operations(tokens, text, LLAMA_7B, LLAVA_VISION, c)) for c in variants]
    assert found[1] == found[0] / 2
    assert found[4] == found[0] - 2 * LLAVA_VISION
    assert found[0] - found[3] == 2 * 32 * 640 * 4096 * 11008
    assert found[2] == 2 * (decoder_macs(tokens, LLAMA_7B) + LLAVA_VISION)
    assert len({str(c) for c in variants}) == 5
    assert str(CONVENTIONS["foveate"]) == "2 x MACs, all tokens, 3 FFN matrices, with vision"


def test_half_of_all_tokens_after_block_two_costs_what_was_counted():
    assert 2 * decoder_macs(np.repeat([640, 64 + 288], [2, 30]), LLAMA_7B) / 1e12 == pytest.approx(4.867, abs=6e-4)


def test_tower_and_projector_of_llava_cost_what_was_counted():
    assert 2 * tower_macs(CLIP_L_336, [Grid(24, 24)]) / 1e12 == pytest.approx(0.382, abs=6e-4)
    assert 2 * projector_macs(PROJECTOR, 576) / 1e12 == pytest.approx(0.024, abs=6e-4)


def test_a_tower_that_sees_tiles_costs_as_much_for_each():
    assert tower_macs(CLIP_L_336, [Grid(24, 24)] * 5) == 5 * tower_macs(CLIP_L_336, [Grid(24, 24)])


def test_every_prompt_has_its_own_number():
    visual, text = np.array([[576] * 32, [576] * 2 + [64] * 30]), np.array([64, 30])
    both = prefill_flops(visual, text, LLAMA_7B)
    assert both.tolist() == [prefill_flops(v, np.array(t), LLAMA_7B) for v, t in zip(visual, text, strict=True)]
    assert both.mean() > prefill_flops(visual.mean(0), np.array(text.mean()), LLAMA_7B)  # attention is quadratic


@pytest.mark.parametrize(
    "config",
    [
        {"num_attention_heads": 4, "num_key_value_heads": 4},
        {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 48},
    ],
    ids=["heads", "groups"],
)
def test_decoder_equals_the_counter(config):
    config = LlamaConfig(hidden_size=128, intermediate_size=320, num_hidden_layers=3, vocab_size=72, **config)
    with torch.device("meta"):
        model, ids = LlamaModel(config), torch.zeros(1, 57, dtype=torch.long)
    counted = _counted(lambda: model(ids, attention_mask=None, use_cache=True))
    shape = DecoderShape.of(config.to_dict())
    assert prefill_flops(np.full(3, 40), np.array(17), shape) == pytest.approx(counted, rel=1e-4)


def test_tower_equals_the_counter():
    sizes = {"hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3, "num_attention_heads": 4}
    with torch.device("meta"):
        model = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=56, patch_size=8))
        pixels = torch.zeros(1, 3, 56, 56)
    shape = TowerShape(blocks=3, hidden=96, intermediate=200, patch_values=3 * 64)
    assert 2 * tower_macs(shape, [Grid(7, 7)]) == pytest.approx(_counted(lambda: model(pixels)), rel=1e-4)


def test_projector_equals_the_counter():
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=96),
        text_config=LlamaConfig(hidden_size=128),
        vision_feature_layer=-2,
    )
    with torch.device("meta"):
        model, features = LlavaMultiModalProjector(config), torch.zeros(1, 20, 96)
    assert 2 * projector_macs(ProjectorShape((96, 128, 128)), 20) == _counted(lambda: model(features))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_shape_of_every_family_costs_what_its_own_vision_side_costs(name):
    """Attention is eager, because FlopCounterMode counts its matrix products on any device."""
    model = FAMILIES[name]()
    model.set_attn_implementation("eager")
    shape = ModelShape.of(model.config.to_dict())
    if name.startswith(("Qwen", "GLM")):
        rows, columns = 14, 18  # of patches: in Qwen2.5-VL, four whole windows of four and what is left at both ends
        pixels = torch.zeros(rows * columns, 3 * 2 * 4**2)
        images = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, rows, columns]])}
        seen, tokens = [Grid(rows, columns)], rows * columns // 4
    else:
        seen = [Grid(6, 6)] * 3
        tokens = 108 if name.startswith("LLaVA") else 27
        images = {"pixel_values": torch.zeros(3, 3, 24, 24)}
        if name.startswith("LLaVA-") and name != "LLaVA-1.5":  # the whole image and two tiles of its enlargement
            images = {"pixel_values": torch.zeros(1, 3, 3, 24, 24), "image_sizes": torch.tensor([[24, 48]])}
        if name in SPREAD:  # a tile of zeros would be padding
            images = {"pixel_values": torch.ones(1, 3, 3, 24, 24)}
    counted = _counted(lambda: model.get_image_features(**images))
    assert 2 * (tower_macs(shape.tower, seen) + projector_macs(shape.projector, tokens)) == counted


@pytest.mark.parametrize("name", FAMILIES)
def test_the_shape_of_every_family_costs_what_its_own_language_model_costs(name):
    model = FAMILIES[name]()
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")  # the counter does not count products of groups
    shape = ModelShape.of(model.config.to_dict()).decoder
    assert shape.kv_heads == shape.heads // 2
    counted = _counted(lambda: adapt(model).decoder.model(inputs_embeds=torch.zeros(1, 20, 32), use_cache=False))
    assert prefill_flops(np.full(shape.blocks, 20), NO_TEXT, shape) == counted


def test_the_shape_of_a_siglip_has_no_cls_token():
    vision = SiglipVisionConfig(hidden_size=96, intermediate_size=200, num_hidden_layers=3, patch_size=14)
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(), vision_feature_select_strategy="full")
    assert ModelShape.of(config.to_dict()).tower == TowerShape(3, 96, 200, 588, extra_tokens=0)


def test_features_of_several_layers_make_the_projector_wider():
    config = LlavaConfig(vision_config=CLIPVisionConfig(hidden_size=96), text_config=LlamaConfig(hidden_size=128))
    config.vision_feature_layer = [-2, -5]
    assert ModelShape.of(config.to_dict()).projector == ProjectorShape((192, 128, 128))


def test_tokens_of_another_number_of_blocks_are_refused():
    with pytest.raises(FoveateError, match=r"shape \(4,\).*32 blocks"):
        decoder_macs(np.full(4, 576), LLAMA_7B)


def test_heads_and_their_width_may_be_left_out_of_a_configuration():
    config = {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 320, "num_attention_heads": 4}
    assert DecoderShape.of(config) == DecoderShape(4, 128, 320, 4, 4, 32)


def _counted(run) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()
