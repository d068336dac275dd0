"""Tiny LLaVAs with language models of many architectures: which of them foveate can serve is found out by running."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import (
    Cohere2Config,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GlmConfig,
    GraniteConfig,
    HeliumConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MinistralConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from foveate.testing.families import IMAGE, clip_config, made, text_options

_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_WINDOW = {"sliding_window": 12}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "num_local_experts": 4}
TEXT_MODELS: dict[str, Callable[..., Any]] = {
    "LLaMA": LlamaConfig,
    "Mistral": lambda **options: MistralConfig(**options, sliding_window=None),
    "Mistral v0.1 (window)": lambda **options: MistralConfig(**options, **_WINDOW),
    "Ministral (window)": lambda **options: MinistralConfig(**options, head_dim=8, rope_parameters=_ROPE, **_WINDOW),
    "Mixtral": lambda **options: MixtralConfig(**options, **_EXPERTS, sliding_window=None),
    "Qwen2": Qwen2Config,
    "Qwen3": lambda **options: Qwen3Config(**options, head_dim=8),
    "Qwen3-MoE": lambda **options: Qwen3MoeConfig(
        **options, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
    ),
    "Granite": lambda **options: GraniteConfig(
        **options, embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=0.3
    ),
    "Phi": lambda **options: PhiConfig(**options, rope_parameters={**_ROPE, "partial_rotary_factor": 0.5}),
    "Phi-3": lambda **options: Phi3Config(**options, sliding_window=None),
    "OLMo": OlmoConfig,
    "OLMo-2": Olmo2Config,
    "OLMo-3 (window)": lambda **options: Olmo3Config(**options, **_WINDOW),
    "StableLM": lambda **options: StableLmConfig(**options, rope_parameters={**_ROPE, "partial_rotary_factor": 0.5}),
    "StarCoder2": lambda **options: Starcoder2Config(**options, sliding_window=None),
    "Gemma": lambda **options: GemmaConfig(**options, head_dim=8),
    "Gemma-2 (window)": lambda **options: Gemma2Config(**options, head_dim=8, query_pre_attn_scalar=8, **_WINDOW),
    "Gemma-3 (window)": lambda **options: Gemma3TextConfig(**options, head_dim=8, query_pre_attn_scalar=8, **_WINDOW),
    "GLM": lambda **options: GlmConfig(
        **options, head_dim=8, rope_parameters={**_ROPE, "partial_rotary_factor": 0.5}
    ),
    "GLM-4": lambda **options: Glm4Config(
        **options, head_dim=8, rope_parameters={**_ROPE, "partial_rotary_factor": 0.5}
    ),
    "Cohere": CohereConfig,
    "Cohere2 (window, no positions in some blocks)": lambda **options: Cohere2Config(**options, **_WINDOW),
    "SmolLM3 (no positions in some blocks)": lambda **options: SmolLM3Config(**options, no_rope_layers=[1, 1, 0, 1]),
    "Helium": lambda **options: HeliumConfig(**options, head_dim=8),
}
"""By name, from the options of a tiny language model to its configuration."""


def llava_with(name: str) -> nn.Module:
    """Returns a tiny LLaVA-1.5 with this language model, and random weights."""
    text = TEXT_MODELS[name](**text_options())
    config = LlavaConfig(
        vision_config=clip_config(), text_config=text, image_token_id=IMAGE, image_seq_length=36,
        tie_word_embeddings=False,
    )  # fmt: skip
    return made(LlavaForConditionalGeneration, config)
