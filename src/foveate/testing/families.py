"""Tiny random models of every family, and their inputs.

Weights are scaled so that attention is peaked and answers depend on the images. Nothing is downloaded.
"""

import string
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

WORDS = 120
LETTERS = {letter: 4 + i for i, letter in enumerate("\n" + string.printable[:95])}
"""The token of each character."""
IMAGE, VIDEO, PAD, BEGIN, START, END = 119, 118, 0, 1, 117, 116
_SIDE, _PATCH = 24, 4  # pixels: 6 x 6 patches
_IMAGE: dict[str, Any] = {"image_token_id": IMAGE}
_TOKENS: dict[str, Any] = {**_IMAGE, "video_token_id": VIDEO}
_POINTS = [[24, 48], [48, 24], [48, 48], [24, 72], [72, 24], [72, 72]]
_TEXT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": BEGIN,
    "eos_token_id": None,
    "pad_token_id": PAD,
    "tie_word_embeddings": False,
}
_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": _SIDE,
    "patch_size": _PATCH,
}


def text_options() -> dict[str, Any]:
    """Returns the options of a tiny language model's configuration."""
    return dict(_TEXT)


def clip_config() -> CLIPVisionConfig:
    """Returns the configuration of a tiny CLIP tower."""
    return CLIPVisionConfig(**_TOWER, projection_dim=16)


def _llama() -> LlamaConfig:
    return LlamaConfig(**_TEXT)


def llava() -> nn.Module:
    """Returns a tiny LLaVA-1.5."""
    config = LlavaConfig(vision_config=clip_config(), text_config=_llama(), **_IMAGE, image_seq_length=36)
    return random_model(LlavaForConditionalGeneration, config)


def llava_next() -> nn.Module:
    """Returns a tiny LLaVA-NeXT."""
    config = LlavaNextConfig(vision_config=clip_config(), text_config=_llama(), **_IMAGE, image_grid_pinpoints=_POINTS)
    return random_model(LlavaNextForConditionalGeneration, config)


def llava_next_video() -> nn.Module:
    """Returns a tiny LLaVA-NeXT-Video."""
    config = LlavaNextVideoConfig(
        vision_config=clip_config(),
        text_config=_llama(),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=_POINTS,
    )
    return random_model(LlavaNextVideoForConditionalGeneration, config)


def llava_onevision(head: bool = False) -> nn.Module:
    """Returns a tiny LLaVA-OneVision, which shrinks enlargements of more than two tiles.

    Args:
        head: Whether its tower has a pooling head, unlike that of the authors' checkpoints.
    """
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_TOWER, vision_use_head=head),
        text_config=Qwen2Config(**_TEXT),
        **_TOKENS,
        image_grid_pinpoints=_POINTS,
        vision_aspect_ratio="anyres_max_2",
    )
    return random_model(LlavaOnevisionForConditionalGeneration, config)


def internvl() -> nn.Module:
    """Returns a tiny InternVL."""
    tower = {**_TOWER, "image_size": [_SIDE, _SIDE], "patch_size": [_PATCH, _PATCH]}
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**tower, use_qk_norm=True, layer_scale_init_value=1.0),
        text_config=Qwen2Config(**_TEXT),
        **_IMAGE,
        image_seq_length=9,
        tie_word_embeddings=False,
    )
    return random_model(InternVLForConditionalGeneration, config)


def qwen2_5_vl() -> nn.Module:
    """Returns a tiny Qwen2.5-VL, with windows of two by two tokens in all but two layers of the tower."""
    vision = {
        **_QWEN_TOWER,
        "window_size": 16,
        "fullatt_block_indexes": [1, 3],
    }
    text = {**_TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_QWEN)
    return random_model(Qwen2_5_VLForConditionalGeneration, config)


def qwen3_vl() -> nn.Module:
    """Returns a tiny Qwen3-VL, with DeepStack features after the first two blocks of the language model."""
    config = Qwen3VLConfig(text_config=_QWEN3_TEXT, vision_config=_QWEN3_TOWER, **_QWEN)
    return random_model(Qwen3VLForConditionalGeneration, config)


def qwen3_vl_moe() -> nn.Module:
    """Returns a tiny Qwen3-VL-MoE, whose tokens pass two of four experts in each block."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    config = Qwen3VLMoeConfig(text_config=_QWEN3_TEXT | experts, vision_config=_QWEN3_TOWER, **_QWEN)
    return random_model(Qwen3VLMoeForConditionalGeneration, config)


def gemma3() -> nn.Module:
    """Returns a tiny Gemma 3, with windows of 12 tokens in every other block of the language model."""
    text = Gemma3TextConfig(
        **_TEXT,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=12,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**_TOWER, vision_use_head=False),
        text_config=text,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        mm_tokens_per_image=9,
        tie_word_embeddings=False,
    )
    return random_model(Gemma3ForConditionalGeneration, config)


def idefics3() -> nn.Module:
    """Returns a tiny Idefics3."""
    config = Idefics3Config(vision_config=_TOWER, text_config=_llama(), **_IMAGE)
    return random_model(Idefics3ForConditionalGeneration, config)


def smolvlm() -> nn.Module:
    """Returns a tiny SmolVLM."""
    config = SmolVLMConfig(vision_config=_TOWER, text_config=_llama(), **_IMAGE)
    return random_model(SmolVLMForConditionalGeneration, config)


def glm4v() -> nn.Module:
    """Returns a tiny GLM-4.1V, whose heads are half rotated."""
    return random_model(Glm4vForConditionalGeneration, Glm4vConfig(**_GLM))


def glm4v_moe() -> nn.Module:
    """Returns a tiny GLM-4.5V, whose tokens pass a shared expert and two of four in all blocks but the first."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    text = {**_GLM["text_config"], "model_type": "glm4v_moe_text", **experts}
    vision = {**_GLM["vision_config"], "model_type": "glm4v_moe_vision"}
    config = Glm4vMoeConfig(**{**_GLM, "text_config": text, "vision_config": vision})
    return random_model(Glm4vMoeForConditionalGeneration, config)


def glm46v() -> nn.Module:
    """Returns a tiny GLM-4.6V, whose heads are half rotated."""
    return random_model(Glm46VForConditionalGeneration, Glm46VConfig(**_GLM))


_QWEN_TOWER: dict[str, Any] = {
    "depth": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "patch_size": _PATCH,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 32,
}
_QWEN3_TOWER: dict[str, Any] = {**_QWEN_TOWER, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 2]}
_QWEN3_TEXT: dict[str, Any] = {
    **_TEXT,
    "num_hidden_layers": 6,  # room for three cuts
    "head_dim": 8,
    "rope_parameters": {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
        "rope_theta": 1e4,
    },
}
_QWEN: dict[str, Any] = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "tie_word_embeddings": False,
}
_GLM: dict[str, Any] = {
    **_TOKENS,
    "vision_config": {**_QWEN_TOWER, "model_type": "glm4v_vision", "image_size": _SIDE},
    "text_config": {
        **_TEXT,
        "model_type": "glm4v_text",
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 0.5,
            "rope_theta": 1e4,
        },
    },
    "image_start_token_id": START,
    "image_end_token_id": END,
    "video_start_token_id": 3,  # in no random text
    "video_end_token_id": 2,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "LLaVA-1.5": llava,
    "LLaVA-NeXT": llava_next,
    "LLaVA-OneVision": llava_onevision,
    "LLaVA-NeXT-Video": llava_next_video,
    "InternVL": internvl,
    "Qwen2.5-VL": qwen2_5_vl,
    "Qwen3-VL": qwen3_vl,
    "Qwen3-VL-MoE": qwen3_vl_moe,
    "Gemma 3": gemma3,
    "Idefics3": idefics3,
    "SmolVLM": smolvlm,
    "GLM-4.1V": glm4v,
    "GLM-4.5V": glm4v_moe,
    "GLM-4.6V": glm46v,
}
WITHOUT_CUTS = ("Gemma 3",)
"""The families that refuse cuts inside the language model, which attends to windows or in both directions."""
VIDEOS = ("LLaVA-OneVision", "LLaVA-NeXT-Video", "InternVL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE")
"""The families that take videos."""
SPREAD = ("Idefics3", "SmolVLM")
"""The families that write text between the tiles of an image."""


def image_inputs(name: str, seed: int = 0) -> list[dict[str, Tensor]]:
    """Returns the model inputs of each of four images, two of which have the same shape."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if name in ("LLaVA-1.5", "Gemma 3"):
        return [{"pixel_values": noise(1, 3, _SIDE, _SIDE)} for _ in range(4)]
    if name == "InternVL":
        return [{"pixel_values": noise(tiles, 3, _SIDE, _SIDE)} for tiles in (3, 1, 3, 2)]
    if name in SPREAD:  # the rest of four tiles is padding
        real = [torch.arange(4)[None, :, None, None] < tiles for tiles in (3, 1, 3, 2)]
        return [
            {
                "pixel_values": noise(1, 4, 3, _SIDE, _SIDE) * some[:, :, None],
                "pixel_attention_mask": some.expand(1, 4, _SIDE, _SIDE).long(),
            }
            for some in real
        ]
    if name.startswith(("Qwen", "GLM")):
        sizes = [(8, 12), (6, 6), (8, 12), (4, 10)]
        return [
            {"pixel_values": noise(h * w, 3 * 2 * _PATCH**2), "image_grid_thw": torch.tensor([[1, h, w]])}
            for h, w in sizes
        ]
    sizes = [(20, 50), (60, 61), (20, 50), (50, 22)]  # enlargements of one, nine, one and two tiles
    return [{"pixel_values": noise(1, 10, 3, _SIDE, _SIDE), "image_sizes": torch.tensor([size])} for size in sizes]


def video_inputs(name: str) -> list[dict[str, Tensor]]:
    """Returns the model inputs of each of four videos, two of which have the same shape; none without videos."""
    noise = torch.Generator().manual_seed(7)
    if name in ("LLaVA-OneVision", "LLaVA-NeXT-Video"):
        return [{"pixel_values_videos": torch.randn(1, 3, 3, _SIDE, _SIDE, generator=noise)} for _ in range(4)]
    if name == "InternVL":
        return [{"pixel_values": torch.randn(frames, 3, _SIDE, _SIDE, generator=noise)} for frames in (3, 2, 3, 1)]
    if name not in VIDEOS:
        return []
    sizes = [(2, 4, 6), (3, 8, 4), (2, 4, 6), (1, 6, 6)]
    videos = [
        {
            "pixel_values_videos": torch.randn(t * h * w, 3 * 2 * _PATCH**2, generator=noise),
            "video_grid_thw": torch.tensor([[t, h, w]]),
        }
        for t, h, w in sizes
    ]
    if name == "Qwen2.5-VL":
        return [video | {"second_per_grid_ts": torch.tensor([1.5])} for video in videos]
    return videos


def placeholders(name: str, token: int, count: int, frames: int = 0) -> list[int]:
    """Returns the tokens of an image or video in a prompt: its placeholders, and the text between them if there is any.

    Args:
        name: Name of the family.
        token: The placeholder.
        count: Number of placeholders.
        frames: Number of frames of a video; 0 for an image.
    """
    if frames and name.startswith("Qwen3-VL"):  # the time is written before each frame
        frame = [token] * (count // frames)
        return [*frame, *[part for _ in range(frames - 1) for part in (END, 78, START, *frame)]]
    if frames and name == "InternVL":
        return [part for n in range(frames) for part in (*_frame_name(n), *[token] * (count // frames))]
    if name not in SPREAD:
        return [token] * count
    tiles, run = count // 9, [token] * 9
    before_whole = [part for tile in range(tiles - 1) for part in (START, 100 + tile, *run)]
    return [*before_whole, *[4, 4] * (tiles > 1), START, 99, *run, START]


def frames_of(video: dict[str, Tensor]) -> int:
    """Returns the number of frames of a video, as far as a prompt may have a run of placeholders for each; else 0."""
    grid = video.get("video_grid_thw")
    return len(video.get("pixel_values", ())) if grid is None else int(grid[0, 0])


def _frame_name(number: int) -> list[int]:
    """Returns the tokens before a frame of InternVL; those after the last one are not written."""
    return [*[END] * (number > 0), *(LETTERS[letter] for letter in "\n" * (number > 0) + f"Frame{number + 1}: "), START]


def random_model(kind: Any, config: Any) -> nn.Module:  # noqa: ANN401 (a class per family)
    """Returns a model of this configuration with random weights, scaled so that attention is peaked."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2 and "norm" in name:
                continue
            weight.normal_(0, 0.1)
            if any(part in name for part in ("q_proj", "k_proj", "qkv", "lm_head")):
                weight.mul_(4)
    model.generation_config.pad_token_id = PAD
    return model
