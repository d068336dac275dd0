"""Tiny LLaVA checkpoints with random weights."""

from pathlib import Path
from typing import cast

import torch
from transformers import CLIPVisionConfig, LlavaForConditionalGeneration

from foveate.reference.architecture import clip_config, llava_config, make_processor


def tiny_llava(seed: int = 0) -> LlavaForConditionalGeneration:
    """Returns a random model of the reference architecture, scaled so that attention is peaked."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(llava_config(cast(CLIPVisionConfig, clip_config().vision_config))).eval()
        for name, weight in model.named_parameters():
            if "q_proj.weight" in name or "k_proj.weight" in name or "lm_head" in name:
                weight.data *= 8 if "vision_tower" in name else 2
    return model


def save_tiny_llava(folder: Path, seed: int = 0) -> Path:
    """Writes a checkpoint folder with processor and returns its path."""
    tiny_llava(seed).save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder
