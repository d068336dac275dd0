"""Models of the sizes of published ones with random weights, on which time and memory do not depend.

Nothing is downloaded: sizes stand here, weights are drawn on the device, and the tokenizer has a token per character.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    Qwen2_5_VLConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from foveate.models.backbone.text_encoder import Companion
from foveate.models.loading.load import LoadedModel, adapt
from foveate.models.loading.processor import Parts
from foveate.testing.checkpoints import tokenizer
from foveate.testing.families import BEGIN, END, IMAGE, PAD, START, VIDEO

_ENDS: dict[str, Any] = {"bos_token_id": BEGIN, "eos_token_id": 2, "pad_token_id": PAD}
_VICUNA: dict[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    **_ENDS,
}
_QWEN: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
    **_ENDS,
}
_CLIP: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_CLIP_TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "vocab_size": 128,
    **_ENDS,
}
_QWEN_TOWER: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "window_size": 112,
    "out_hidden_size": 3584,
}
_POINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_SQUARE = {"height": 336, "width": 336}


@dataclass(frozen=True)
class Shape:
    """A published model's sizes.

    Attributes:
        family: Name of the family.
        side: Side in pixels of the images to measure with.
        tower: Number of layers of the vision tower.
        blocks: Number of blocks of the language model.
        config: Returns the configuration for so many layers and blocks.
        images: Returns the image processor.
        has_cls: Whether the tower has a [CLS] token.
        companion: Whether the text encoder of CLIP-L/14-336 belongs to the tower.
    """

    family: str
    side: int
    tower: int
    blocks: int
    config: Callable[[int, int], Any]
    images: Callable[[], Any]
    has_cls: bool = True
    companion: bool = True

    def depth(self, layers: int | None) -> tuple[int, int]:
        """Returns the numbers of layers of the tower and of blocks, each at most `layers`."""
        return (self.tower, self.blocks) if layers is None else (min(layers, self.tower), min(layers, self.blocks))


def _llava(tower: int, blocks: int) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**_CLIP, num_hidden_layers=tower),
        text_config=LlamaConfig(**_VICUNA, num_hidden_layers=blocks),
        image_token_index=IMAGE,
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def _llava_next(tower: int, blocks: int) -> LlavaNextConfig:
    return LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_CLIP, num_hidden_layers=tower),
        text_config=LlamaConfig(**_VICUNA, num_hidden_layers=blocks),
        image_token_index=IMAGE,
        image_grid_pinpoints=_POINTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def _qwen2_5_vl(tower: int, blocks: int) -> Qwen2_5_VLConfig:
    whole = [layer for layer in (7, 15, 23, 31) if layer < tower] or [tower - 1]
    return Qwen2_5_VLConfig(
        vision_config={**_QWEN_TOWER, "depth": tower, "fullatt_block_indexes": whole},
        text_config={**_QWEN, "num_hidden_layers": blocks},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=False,
    )


SHAPES: Mapping[str, Shape] = {
    "LLaVA-1.5-7B": Shape(
        "LLaVA-1.5", 336, 24, 32, _llava, lambda: CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=_SQUARE)
    ),
    "LLaVA-NeXT-7B": Shape(
        "LLaVA-NeXT",
        672,
        24,
        32,
        _llava_next,
        lambda: LlavaNextImageProcessorPil(
            size={"shortest_edge": 336}, crop_size=_SQUARE, image_grid_pinpoints=_POINTS
        ),
    ),
    "Qwen2.5-VL-7B": Shape("Qwen2.5-VL", 672, 32, 28, _qwen2_5_vl, Qwen2VLImageProcessorPil, False, False),
}


def build(name: str, device: str, dtype: torch.dtype, layers: int | None = None) -> LoadedModel:
    """Returns a model of these sizes, built on the device, with processor, and with the text encoder of CLIP for LLaVA.

    Args:
        name: Name in `SHAPES`.
        device: The device.
        dtype: Precision of all weights.
        layers: Largest number of layers of the tower and of blocks; None means all.
    """
    shape = SHAPES[name]
    torch.manual_seed(0)
    with torch.device(device):
        config = shape.config(*shape.depth(layers))
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()
        companion = _companion() if shape.companion else None
    model.generation_config.eos_token_id = None
    loaded = LoadedModel(name, adapt(model), Parts(shape.images(), tokenizer(shape.family)), companion)
    loaded.check()
    return loaded


def _companion() -> Companion:
    """Returns the text side of CLIP-L/14-336, with one layer of its tower, which is not run."""
    vision, text = {**_CLIP, "num_hidden_layers": 1}, {**_CLIP_TEXT, "num_hidden_layers": 12}
    config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=768)
    return Companion(CLIPModel(config).eval(), tokenizer("LLaVA-1.5"))
