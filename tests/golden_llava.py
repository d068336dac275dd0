"""The random LLaVA of the golden files: 24-layer tower, 576 patches, 8-layer language model."""

import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
import inputs  # noqa: E402  (lies beside the arrays it explains)

IMAGE_TOKEN = 128  # one more than the golden vocabulary


@cache
def golden_llava(sparse: bool = False) -> LlavaForConditionalGeneration:
    """`sparse`: with the deeper language model of the SparseVLM files, and a projector that nobody trained."""
    inputs.self_check()
    shape = inputs.LLAMA_SPARSE if sparse else inputs.LLAMA
    language = {name: value for name, value in shape.items() if name not in ("rope_theta", "vocab_size")}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**inputs.CLIP_VISION),
        text_config=LlamaConfig(
            **language, vocab_size=129, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
        ),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=576,
        vision_feature_layer=-2,
        projector_hidden_act="gelu",
    )
    model = LlavaForConditionalGeneration(config).eval()
    inputs.load_clip_vision(model.model.vision_tower)
    projector = {
        f"linear_{ours}.{part}": torch.from_numpy(inputs.projector_weights()[f"{theirs}.{part}"])
        for ours, theirs in ((1, 0), (2, 2))
        for part in ("weight", "bias")
    }
    if not sparse:
        model.model.multi_modal_projector.load_state_dict(projector)
    weights = {name: torch.from_numpy(value) for name, value in inputs.llama_weights(sparse).items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.zeros(1, weights[name].shape[1])])
    head = weights.pop("lm_head.weight")
    model.lm_head.load_state_dict({"weight": head})
    model.model.language_model.load_state_dict({name.removeprefix("model."): v for name, v in weights.items()})
    return model


@cache
def exact_llava() -> LlavaForConditionalGeneration:
    """In float64, as the authors' code ran for some files; kernels for one image and for three round alike there."""
    return deepcopy(golden_llava()).double()


def golden_tiles(count: int, rng: np.random.Generator) -> torch.Tensor:
    """Pixels of the next image's tiles; the golden files draw those of all images from one generator of seed 911."""
    coarse, noise = rng.standard_normal((count, 3, 8, 8)), rng.standard_normal((count, 3, 336, 336))
    return torch.from_numpy((coarse.repeat(42, 2).repeat(42, 3) + 0.5 * noise).astype(np.float32))


def golden_pixels(count: int = 1) -> torch.Tensor:
    return torch.from_numpy(inputs.images()[:count])


def golden_prompt(images: int = 1, dim: int = 64) -> torch.Tensor:
    prompt = inputs.prompts(dim)[0]
    return torch.tensor([[*prompt["sys_ids"], *[IMAGE_TOKEN] * 576 * images, *prompt["q_ids"]]])


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)
