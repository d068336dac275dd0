"""Models with random weights, on which time and memory do not depend."""

from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE_TOKEN = 9
PATCH_SIZE = 14


def llava(tower: dict[str, Any], language: dict[str, Any]) -> LlavaForConditionalGeneration:
    """Returns a LLaVA-1.5 whose features are those of the penultimate layer.

    Args:
        tower: Fields of the CLIP configuration, whose patches are 14 pixels wide.
        language: Fields of the LLaMA configuration.
    """
    torch.manual_seed(0)
    side = tower["image_size"] // PATCH_SIZE
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(patch_size=PATCH_SIZE, **tower),
        text_config=LlamaConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2, **language),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=side**2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return LlavaForConditionalGeneration(config).eval()


def with_tower(side: int, layers: int, width: int = 1024, inner: int = 4096) -> LlavaForConditionalGeneration:
    """Returns a CLIP of 16 heads with a minimal language model.

    Args:
        side: Patches in a row of the image.
        layers: Number of layers; 24 layers of width 1024 with 24 patches in a row are CLIP-L/14-336.
        width: Width of the tokens.
        inner: Width of the FFN.
    """
    tower = {"image_size": side * PATCH_SIZE, "num_hidden_layers": layers, "num_attention_heads": 16}
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    return llava({**tower, "hidden_size": width, "intermediate_size": inner}, {**small, "vocab_size": 16})


def medium() -> LlavaForConditionalGeneration:
    """Returns a language model of 8 blocks of width 1024 for 576 patches, with a minimal tower."""
    tower = {"image_size": 24 * PATCH_SIZE, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    shape = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16}
    return llava({**tower, "num_attention_heads": 1}, {**shape, "vocab_size": 32000})
