"""The undocumented names of transformers that foveate uses.

A release may rename any of them without notice. They are looked up only here, so that the error names the missing one
and importing foveate does not import them.
"""

from functools import cache
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from typing import Any

from foveate.core.errors import UnsupportedModel

INTERNALS = {
    "configuration_utils.PreTrainedConfig._attn_implementation": "the attention kernel that a model is configured with",
    "masking_utils.ALL_MASK_ATTENTION_FUNCTIONS": "the mask function of each attention kernel",
    "masking_utils.create_causal_mask": "masks for key-value caches whose layers differ in length",
    "modeling_utils.ALL_ATTENTION_FUNCTIONS": "the attention kernels by name",
    "models.auto.video_processing_auto.get_video_processor_config": "the sizes of frames of a checkpoint",
    "models.clip.modeling_clip.CLIPEncoderLayer": "reductions inside a CLIP tower",
    "models.idefics3.image_processing_pil_idefics3.get_resize_output_image_size": "tiles of Idefics3 images",
    "models.llava_next.modeling_llava_next.image_size_to_num_patches": "the number of tiles of LLaVA-NeXT images",
    "models.qwen3_vl.modeling_qwen3_vl.BaseModelOutputWithDeepstackFeatures": "the image features of Qwen3-VL",
    "models.siglip.modeling_siglip.SiglipEncoderLayer": "reductions inside a SigLIP tower",
    "utils.hub.cached_file": "the files of a hub ID that are downloaded already",
    "vision_utils.get_vision_window_index": "the windows of the Qwen2.5-VL tower",
}
"""Each name below `transformers`, and its use in foveate."""


@cache
def internal(name: str) -> Any:  # noqa: ANN401 (functions, classes and tables)
    """Looks up one of `INTERNALS`.

    Raises:
        UnsupportedModel: The installed transformers does not have it.
    """
    path, found = "transformers", import_module("transformers")
    try:
        for part in name.split("."):
            path = f"{path}.{part}"
            found = getattr(found, part) if hasattr(found, part) else import_module(path)
        return found
    except ImportError as error:
        raise UnsupportedModel(
            f"transformers {version('transformers')} has no {name}, which foveate uses for {INTERNALS[name]}: "
            "install a version within the range of foveate's pyproject.toml"
        ) from error


def missing_internals() -> dict[str, str]:
    """Returns the `INTERNALS` that the installed transformers lacks, with the error of each."""
    missing = {}
    for name in INTERNALS:
        try:
            internal(name)
        except UnsupportedModel as error:
            missing[name] = str(error)
    return missing


def cache_argument(block: Any) -> str:  # noqa: ANN401 (a class per family)
    """Returns the name of a decoder block's argument for the key-value cache.

    It is "cache" from transformers 5.24 on, "past_key_values" before.

    Args:
        block: A decoder block of transformers.

    Raises:
        UnsupportedModel: The block has no such argument.
    """
    parameters = signature(block.forward).parameters
    if known := [name for name in ("cache", "past_key_values") if name in parameters]:
        return known[0]
    raise UnsupportedModel(
        f"{type(block).__name__}.forward takes {', '.join(parameters)}: expected an argument cache or past_key_values "
        "for the key-value cache; install a version of transformers within the range of foveate's pyproject.toml"
    )
