"""Tiny LLaVAs with language models of many architectures, and the table of those that foveate supports."""

from typing import Any

import torch
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

from foveate.compressors import Compressor, DecoderCompressor, VisionCompressor
from foveate.core.errors import FoveateError
from foveate.scorers import PromptAttention, Random, ResponseAttention
from foveate.testing.families import END, IMAGE, START, clip_config, image_inputs, random_model, text_options

_HALF: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
_HEAD: dict[str, Any] = {"head_dim": 8}
_NONE: dict[str, Any] = {"sliding_window": None}
_WINDOW: dict[str, Any] = {"sliding_window": 12}
_GRANITE = {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.3}
_QWEN_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
TEXT_MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "LLaMA": (LlamaConfig, {}),
    "Mistral": (MistralConfig, _NONE),
    "Mistral v0.1 (window)": (MistralConfig, _WINDOW),
    "Ministral (window)": (MinistralConfig, {**_HEAD, **_WINDOW, "rope_parameters": {"rope_theta": 1e4}}),
    "Mixtral": (MixtralConfig, {"num_experts_per_tok": 2, "num_local_experts": 4, **_NONE}),
    "Qwen2": (Qwen2Config, {}),
    "Qwen3": (Qwen3Config, _HEAD),
    "Qwen3-MoE": (Qwen3MoeConfig, {**_HEAD, **_QWEN_EXPERTS}),
    "Granite": (GraniteConfig, _GRANITE),
    "Phi": (PhiConfig, _HALF),
    "Phi-3": (Phi3Config, _NONE),
    "OLMo": (OlmoConfig, {}),
    "OLMo-2": (Olmo2Config, {}),
    "OLMo-3 (window)": (Olmo3Config, _WINDOW),
    "StableLM": (StableLmConfig, _HALF),
    "StarCoder2": (Starcoder2Config, _NONE),
    "Gemma": (GemmaConfig, _HEAD),
    "Gemma-2 (window)": (Gemma2Config, {**_HEAD, **_WINDOW, "query_pre_attn_scalar": 8}),
    "Gemma-3 (window)": (Gemma3TextConfig, {**_HEAD, **_WINDOW, "query_pre_attn_scalar": 8}),
    "GLM": (GlmConfig, {**_HEAD, **_HALF}),
    "GLM-4": (Glm4Config, {**_HEAD, **_HALF}),
    "Cohere": (CohereConfig, {}),
    "Cohere2 (window, no positions in some blocks)": (Cohere2Config, _WINDOW),
    "SmolLM3 (no positions in some blocks)": (SmolLM3Config, {"no_rope_layers": [1, 1, 0, 1]}),
    "Helium": (HeliumConfig, _HEAD),
}
"""By name: the class of a configuration, and its options in addition to those of a tiny language model."""


def llava_with(name: str) -> nn.Module:
    """Returns a tiny LLaVA-1.5 with this language model, and random weights."""
    kind, options = TEXT_MODELS[name]
    image: dict[str, Any] = {"image_token_id": IMAGE, "image_seq_length": 36}
    text = kind(**text_options(), **options)
    config = LlavaConfig(vision_config=clip_config(), text_config=text, **image, tie_word_embeddings=False)
    return random_model(LlavaForConditionalGeneration, config)


def table() -> str:
    """Returns language models and ways of compression as Markdown, made by running each pair."""
    reasons: list[str] = []
    lines = [" | ".join(["| language model", *_METHODS]) + " |", "| --- " * (1 + len(_METHODS)) + "|"]
    for name in TEXT_MODELS:
        cells = [_outcome(name, method, reasons) for method in _METHODS.values()]
        lines.append(" | ".join([f"| {name}", *cells]) + " |")
    return "\n".join([*lines, "", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))])


_METHODS: dict[str, Compressor] = {
    "before it, repacked": VisionCompressor(Random(), 5),
    "before it, original positions": VisionCompressor(Random(), 5, positions="original"),
    "inside it (FastV)": DecoderCompressor(PromptAttention(1), 4, layer=2),
    "inside it, by debiased attention (SparseVLM+)": DecoderCompressor(PromptAttention(1, debiased=True), 4, layer=2),
    "its own attention read (bias, responses)": VisionCompressor(ResponseAttention(), 5),
}


@torch.no_grad()
def _outcome(name: str, method: Compressor, reasons: list[str]) -> str:
    """Returns "works", or "refused" with the number of the reason, which is appended to `reasons` if it is new."""
    model: Any = llava_with(name)
    ids = torch.tensor([[5, 6, START, *[IMAGE] * 36, END, 9, 10]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **image_inputs("LLaVA-1.5")[0]}
    try:
        with method.attached(model):
            model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    except FoveateError as error:
        reason = str(error).replace(type(model.model.language_model).__name__, "this language model")
        if reason not in reasons:
            reasons.append(reason)
        return f"refused ({reasons.index(reason) + 1})"
    return "works"
