import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from foveate.functional.attention import attention_rows, causal, mean_attention
from foveate.models.backbone.attention_tap import tapped
from foveate.models.backbone.decoder import Decoder
from foveate.models.runtime.response_attention import RowRecorder

WIDTH = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZE = {"image_size": 32, "patch_size": 8}
TOWERS = {
    "clip": (CLIPVisionModel, CLIPVisionConfig(**WIDTH, **SIZE), 1 + 16),
    "siglip": (SiglipVisionModel, SiglipVisionConfig(**WIDTH, **SIZE), 16),
    "dinov2 with registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig(**WIDTH, **SIZE), 1 + 4 + 16),
}
GROUPED = {"num_key_value_heads": 2, "vocab_size": 50, "head_dim": 8}
LANGUAGE = {
    "llama with grouped queries": (LlamaForCausalLM, LlamaConfig(**WIDTH, **GROUPED)),
    "qwen3 with norms of query and key": (Qwen3ForCausalLM, Qwen3Config(**WIDTH, **GROUPED)),
}


def peaky(family, config):
    torch.manual_seed(0)
    model = family(config).eval()
    for name, weight in model.named_parameters():
        if any(part in name for part in ("q_norm.weight", "k_norm.weight")):
            weight.data *= 3
        elif any(part in name for part in ("q_proj.weight", "k_proj.weight")):
            weight.data *= 15
    return model


def eager(model, **inputs):
    """Returns the eager attention matrices: (layer, batch, head, query, key)."""
    model.set_attn_implementation("eager")
    matrices = torch.stack(model(**inputs, output_attentions=True).attentions)
    model.set_attn_implementation("sdpa")
    return matrices


@torch.no_grad()
@pytest.mark.parametrize("name", TOWERS)
def test_rows_of_a_vision_tower_equal_the_eager_attention_matrix(name):
    family, config, tokens = TOWERS[name]
    model = peaky(family, config)
    layers = [module for module in model.modules() if hasattr(module, "q_proj")]
    pixels = torch.randn(2, 3, 32, 32)
    weight = torch.rand(2, tokens)
    rows, means = {}, {}

    def listen(layer, query, key, scaling):
        rows[layer] = attention_rows(query, key, scaling)
        means[layer] = mean_attention(query, key, scaling, weight)

    plain = model(pixels).last_hidden_state
    with tapped(model, {module: layer for layer, module in enumerate(layers)}, listen):
        through = model(pixels).last_hidden_state
    expected = eager(model, pixel_values=pixels)
    assert torch.equal(plain, through)
    assert list(rows) == [0, 1, 2]
    assert expected.amax((1, 2, 3, 4)).min() > 0.3  # peaked in every layer: uniform rows would prove nothing
    received = (expected * weight[:, None, :, None]).sum(3) / weight.sum(1)[:, None, None]
    torch.testing.assert_close(torch.stack(list(rows.values())), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.stack(list(means.values())), received, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", LANGUAGE)
def test_rows_of_a_left_padded_language_model_equal_the_eager_attention_matrix(name):
    model = peaky(*LANGUAGE[name])
    decoder = Decoder(model.model, model.lm_head)
    ids, real = torch.randint(50, (3, 20)), torch.arange(20) >= torch.tensor([[0], [7], [3]])
    keys = torch.stack([torch.randperm(13)[:5] + 7 for _ in ids])  # any order
    recorder = RowRecorder(real, {"some": torch.rand(3, 20) * real, "last": torch.eye(20)[-1:].expand(3, -1)}, keys)
    rows = {}

    def listen(layer, query, key, scaling):
        rows[layer] = attention_rows(query, key, scaling, causal(real, torch.arange(20))[:, None])

    plain = model(ids, attention_mask=real.long()).logits
    with decoder.tapped(listen), decoder.tapped(recorder):
        through = model(ids, attention_mask=real.long()).logits
    expected = eager(model, input_ids=ids, attention_mask=real.long())
    assert torch.equal(plain, through)  # so the padding mask was not lost
    assert list(rows) == [0, 1, 2]
    late = expected[:, :, :, 12:]  # the first rows have few keys and are always peaked
    assert late.amax((1, 2, 3, 4)).min() > 0.3  # uniform rows would prove nothing
    matrices = torch.stack(list(rows.values())).masked_fill(~real[:, None, :, None], 0)
    torch.testing.assert_close(matrices, expected.masked_fill(~real[:, None, :, None], 0), atol=1e-5, rtol=0)
    for mean, weight in recorder.weights.items():
        whole = (expected * weight[:, None, :, None]).sum(3) / weight.sum(1)[:, None, None]
        chosen = whole.movedim(0, 1).gather(3, keys[:, None, None].expand(-1, 3, 4, -1))
        torch.testing.assert_close(recorder.rows(mean), chosen, atol=1e-5, rtol=0)
