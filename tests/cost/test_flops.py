import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaModel, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from foveate.core.errors import FoveateError
from foveate.cost.flops import (
    DecoderShape,
    TowerShape,
    decoder_macs,
    prefill_flops,
    projector_macs,
    tower_macs,
    visual_macs,
)

LLAMA_7B = DecoderShape(blocks=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, head_dim=128)
CLIP_L_336 = TowerShape(blocks=24, hidden=1024, intermediate=4096, patches=576, patch_values=3 * 14**2)


@pytest.mark.parametrize(("tokens", "published"), [(576, 3.817), (192, 1.253), (128, 0.833), (64, 0.416)])
def test_visual_macs_of_llava_are_the_published_ones(tokens, published):
    assert visual_macs(np.full(32, tokens), LLAMA_7B) / 1e12 == pytest.approx(published, abs=6e-4)


def test_pyramid_drop_costs_the_published_macs():
    stages = np.repeat([576, 288, 144, 72], 8)
    assert visual_macs(stages, LLAMA_7B) / 1e12 == pytest.approx(1.777, abs=6e-4)


@pytest.mark.parametrize(("visual", "teraflops"), [(576, 8.504), (192, 3.350), (128, 2.506), (64, 1.666)])
def test_prefill_flops_count_the_text_too(visual, teraflops):
    assert prefill_flops(np.full(32, visual), np.array(64), LLAMA_7B) / 1e12 == pytest.approx(teraflops, abs=6e-4)


def test_half_of_all_tokens_after_block_two_costs_what_was_counted():
    assert 2 * decoder_macs(np.repeat([640, 64 + 288], [2, 30]), LLAMA_7B) / 1e12 == pytest.approx(4.867, abs=6e-4)


def test_tower_and_projector_of_llava_cost_what_was_counted():
    assert 2 * tower_macs(CLIP_L_336) / 1e12 == pytest.approx(0.382, abs=6e-4)
    assert 2 * projector_macs(576, 1024, 4096) / 1e12 == pytest.approx(0.024, abs=6e-4)


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
    config = CLIPVisionConfig(
        hidden_size=96, intermediate_size=200, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=8
    )
    with torch.device("meta"):
        model, pixels = CLIPVisionModel(config), torch.zeros(1, 3, 56, 56)
    shape = TowerShape(blocks=3, hidden=96, intermediate=200, patches=49, patch_values=3 * 64)
    assert 2 * tower_macs(shape) == pytest.approx(_counted(lambda: model(pixels)), rel=1e-4)


def test_projector_equals_the_counter():
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=96),
        text_config=LlamaConfig(hidden_size=128),
        vision_feature_layer=-2,
    )
    with torch.device("meta"):
        model, features = LlavaMultiModalProjector(config), torch.zeros(1, 20, 96)
    assert 2 * projector_macs(20, 96, 128) == _counted(lambda: model(features))


def test_tokens_of_another_number_of_blocks_are_refused():
    with pytest.raises(FoveateError, match=r"shape \(4,\).*32 blocks"):
        decoder_macs(np.full(4, 576), LLAMA_7B)


def test_heads_and_their_width_may_be_left_out_of_a_configuration():
    config = {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 320, "num_attention_heads": 4}
    assert DecoderShape.of(config) == DecoderShape(4, 128, 320, 4, 4, 32)


def _counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
