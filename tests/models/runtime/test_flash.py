"""Flash kernels read the borders of packed sequences from positions, and gaps left by compression are not borders.

The kernel here does on the CPU what FlashAttention 2 does in transformers: without padding, positions that are not
consecutive begin a new sequence, whose tokens attend only to each other.
"""

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from foveate.compressors import DecoderCompressor, Identity, Pipeline, VisionCompressor
from foveate.compressors.base import compressed_by
from foveate.models.loading.load import adapt
from foveate.models.runtime.generation import Decoding, answer_each
from foveate.models.runtime.images import LiveImages
from foveate.scorers import PromptAttention, Random
from foveate.testing.families import END, FAMILIES, START, image_inputs

OPTIONS = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
OPTIONS |= {"return_dict_in_generate": True, "output_logits": True}
VISION = VisionCompressor(Random(), 5, positions="original")
CUT = DecoderCompressor(PromptAttention(1), 4, layer=2)


def flash(module, query, key, value, attention_mask, scaling=None, **options: Any):
    position_ids, is_causal = options.get("position_ids"), options.get("is_causal", True)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    length, keys = query.shape[2], key.shape[2]
    allowed = torch.ones(length, keys, dtype=torch.bool)
    allowed = (allowed.tril(keys - length) if is_causal and length > 1 else allowed)[None].repeat(len(query), 1, 1)
    if attention_mask is not None:
        allowed = allowed & attention_mask[:, None, -keys:].bool() | torch.eye(length, keys, dtype=torch.bool)
    elif position_ids is not None and len(query) == 1 and length == keys:
        number = (position_ids[0].diff(prepend=position_ids[0][:1] - 1) != 1).cumsum(0)
        allowed = allowed & (number[:, None] == number)
    seen = scaled_dot_product_attention(query, key, value, allowed[:, None], scale=scaling)
    return seen.transpose(1, 2), None


@pytest.fixture(scope="module", autouse=True)
def kernel():
    AttentionInterface.register("flash_probe", flash)
    AttentionMaskInterface.register("flash_probe", flash_attention_mask)


def batch(rows: int) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[5, 6, 7, START, *[119] * 36, END, 9, 10, 11][:45]] * rows)
    images = torch.cat([image["pixel_values"] for image in image_inputs("LLaVA-1.5")[:rows]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": images}


def generated(model, method, inputs):
    with method.attached(model):
        return torch.stack(model.generate(**inputs, **OPTIONS).logits)


def flashing(model):
    model.model.language_model.config._attn_implementation = "flash_probe"
    return model


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(
    "method", [Identity(), VISION, CUT, Pipeline((VISION, CUT))], ids=["full", "behind", "in", "both"]
)
def test_holes_in_positions_part_no_sequences(method, rows):
    inputs = batch(rows)
    expected = generated(FAMILIES["LLaVA-1.5"](), method, inputs)
    model = flashing(FAMILIES["LLaVA-1.5"]())
    torch.testing.assert_close(generated(model, method, inputs), expected, atol=1e-4, rtol=0)
    with method.attached(model):
        forward = model(**inputs).logits[:, -1]
    torch.testing.assert_close(forward, expected[0], atol=1e-4, rtol=0)
    adapter: Any = adapt(model)
    seen = LiveImages(adapter, {"pixel_values": inputs["pixel_values"]}, adapter.arrangements(inputs, [])[0])
    compressed, prompts = compressed_by(method, seen, adapter.extra_needs), inputs["input_ids"].tolist()
    said = answer_each(adapter, prompts, compressed, method.repack, method.cuts, Decoding(4))[0].tokens
    assert said == expected.argmax(-1).T.tolist()


@torch.no_grad()
def test_the_kernel_here_does_read_them():
    model = flashing(FAMILIES["LLaVA-1.5"]()).model.language_model
    states = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))
    whole, holes = torch.arange(6)[None], torch.tensor([[0, 1, 2, 7, 8, 9]])
    seen = [model(inputs_embeds=states, position_ids=place).last_hidden_state[0, -1] for place in (whole, holes)]
    assert (seen[0] - seen[1]).abs().max() > 0.1
