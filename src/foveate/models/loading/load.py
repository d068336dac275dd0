"""Loads a checkpoint (shipped, local or from the hub) with its processor and adapter."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from warnings import warn

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from foveate.core.errors import UnsupportedModel, shown
from foveate.core.plugins import import_plugin, installed_plugins
from foveate.models.backbone.adapter import Adapter
from foveate.models.backbone.internals import internal
from foveate.models.families.frames import LlavaNextVideo
from foveate.models.families.gemma3 import Gemma3
from foveate.models.families.glm import Glm
from foveate.models.families.idefics3 import Idefics3
from foveate.models.families.internvl import InternVL
from foveate.models.families.llava import Llava
from foveate.models.families.llava_next import LlavaNext
from foveate.models.families.onevision import LlavaOnevision
from foveate.models.families.qwen_vl import QwenVL
from foveate.models.loading.checkpoint import SAFE, config_of, in_one_dtype, on_device, reading, weights_of
from foveate.models.loading.companion import load_companion
from foveate.models.loading.loaded_model import LoadedModel
from foveate.models.loading.names import DTYPES, REFERENCE, SHIPPED, check_model, folder_of
from foveate.models.loading.processor import load_processor
from foveate.models.loading.sizes import memory_note
from foveate.models.loading.video_inputs import video_settings

_ADAPTERS: dict[str, Callable[[Any], Adapter]] = {  # by model_type of the configuration
    "llava": Llava,
    "llava_next": LlavaNext,
    "llava_next_video": LlavaNextVideo,
    "llava_onevision": LlavaOnevision,
    "qwen2_5_vl": QwenVL,
    "qwen3_vl": QwenVL,
    "qwen3_vl_moe": QwenVL,
    "internvl": InternVL,
    "gemma3": Gemma3,
    "idefics3": Idefics3,
    "smolvlm": Idefics3,
    "glm4v": Glm,
    "glm4v_moe": Glm,
    "glm46v": Glm,
}


def register_family(model_type: str, adapter: Callable[[Any], Adapter]) -> None:
    """Registers a family of models for `load` and `attached`.

    An installed package can do so by an entry point of the group `foveate.families` whose name is the model type.

    Args:
        model_type: The `model_type` of the checkpoint's configuration. AutoModelForImageTextToText must support it.
        adapter: Returns the adapter of a model; usually a subclass of `Adapter`.

    Raises:
        UnsupportedModel: Another adapter is registered for this type.
    """
    if _ADAPTERS.get(model_type, adapter) is not adapter:
        raise UnsupportedModel(
            f"model type {model_type!r} has an adapter already, {_ADAPTERS[model_type].__name__}: a type can have only "
            "one"
        )
    _ADAPTERS[model_type] = adapter


def _adapter_of(kind: str | None) -> Callable[[Any], Adapter] | None:
    """Returns the adapter of a model type: built in, registered, or from an entry point."""
    if kind in _ADAPTERS or kind not in installed_plugins("foveate.families"):
        return _ADAPTERS.get(kind or "")
    register_family(kind, import_plugin("foveate.families", kind))
    return _ADAPTERS[kind]


def _supported() -> str:
    return ", ".join(dict.fromkeys([*_ADAPTERS, *installed_plugins("foveate.families")]))


def adapt(model: nn.Module) -> Adapter:
    """Returns the adapter of a stock model, or of the stock model inside a PEFT wrapper.

    Raises:
        UnsupportedModel: No adapter supports the model type, or the wrapper puts tokens before the prompt.
    """
    inner = _unwrapped(model)
    kind = getattr(getattr(inner, "config", None), "model_type", None)
    adapter = _adapter_of(kind)
    if adapter is None or not hasattr(inner, "lm_head"):
        raise UnsupportedModel(
            f"{type(inner).__name__} is not supported; supported types: {_supported()}. Add others by register_family"
        )
    return adapter(cast(Any, inner))


def _unwrapped(model: nn.Module) -> nn.Module:
    """Returns the stock model inside a PEFT wrapper; returns other models unchanged."""
    base = getattr(model, "get_base_model", None)
    if not callable(base):
        return model
    for name, config in dict(getattr(model, "peft_config", {})).items():
        if getattr(config, "is_prompt_learning", False):
            raise UnsupportedModel(
                f"adapter {name!r} ({type(config).__name__}) puts tokens of its own before the prompt, which shifts "
                "the image tokens: use an adapter of weights, such as LoRA, or get_base_model()"
            )
    return cast(nn.Module, base())


def load(
    name: str | Path = REFERENCE,
    device: str = "cpu",
    dtype: str = "auto",
    attention: str = "sdpa",
    companion: str | Path | None = None,
    revision: str = "main",
    **options: Any,  # noqa: ANN401 (as in transformers)
) -> LoadedModel:
    """Loads a checkpoint: weights from safetensors only, and never code from its folder.

    Args:
        name: "reference", "reference-1", "reference-2" or "reference-video" (the shipped models), a checkpoint folder,
            or a hub id.
        device: The device that it runs on.
        dtype: Precision of all weights: "float32", "bfloat16" or "float16"; "auto" means that of the checkpoint. Tower
            and language model get the same, because mixed precisions would silently change answers.
        attention: The attention implementation's name in transformers.
        companion: Checkpoint of the CLIP that the vision tower was taken from, for scorers that compare patches with
            text; the shipped models have their own.
        revision: Branch, tag or commit of a hub id.
        options: Passed to `from_pretrained` of transformers, such as `quantization_config`, or `device_map="auto"` for
            models larger than one GPU. With `device_map`, `device` is not used, and parts may be offloaded to the CPU
            or the disk.

    Raises:
        UnsupportedModel: The checkpoint does not exist, is incomplete or is not supported, or device, dtype or
            attention are not available.
    """
    check_model(name)
    _check_options(dtype, attention, options)
    source = folder_of(name)
    what = f"model {shown(str(name))}"
    # Registering third-party families imports their classes, which transformers needs to read a configuration.
    for family in installed_plugins("foveate.families"):
        _adapter_of(family)
    config = config_of(what, source, revision=revision)
    if _adapter_of(config.model_type) is None:
        raise UnsupportedModel(f"{what} is of type {config.model_type!r}; supported: {_supported()}")
    quantized = "quantization_config" in options or getattr(config, "quantization_config", None) is not None
    if not quantized and "device_map" not in options and (note := memory_note(name, device, dtype, revision)):
        warn(note, stacklevel=2)
    model: Any = weights_of(
        what,
        AutoModelForImageTextToText,
        source,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        attn_implementation=attention,
        revision=revision,
        **options,
    )
    if not quantized:
        in_one_dtype(model, _precision(what, model, dtype))
    model = (model if "device_map" in options else on_device(model, device)).eval()
    companion = name if companion is None and str(name) in SHIPPED else companion
    clip = load_companion(companion, device) if companion else None
    with reading(f"{what} is incomplete", "Expected tokenizer, chat template and image processor of the same model"):
        processor, frames = load_processor(source, **SAFE, revision=revision), video_settings(source, revision)
        loaded = LoadedModel(str(name), adapt(model), processor, clip, video_settings=frames)
        loaded.check()
    return loaded


def _check_options(dtype: str, attention: str, options: Mapping[str, Any]) -> None:
    """Raises `UnsupportedModel` unless `load` supports these arguments."""
    if dtype not in ("auto", *DTYPES):
        raise UnsupportedModel(f"dtype {dtype!r} is unknown; known: {', '.join(DTYPES)}, auto")
    if refused := sorted({"trust_remote_code", "use_safetensors", "dtype", "attn_implementation"} & set(options)):
        raise UnsupportedModel(
            f"{', '.join(refused)} cannot be given as options: use the arguments dtype and attention; remote code is "
            "never run, and weights are always read from safetensors"
        )
    if attention not in (known := ("eager", *internal("modeling_utils.ALL_ATTENTION_FUNCTIONS").valid_keys())):
        raise UnsupportedModel(f"attention {attention!r} is unknown; known: {', '.join(sorted(known))}")


def _precision(what: str, model: Any, dtype: str) -> torch.dtype:  # noqa: ANN401 (a class per family)
    """Returns the precision named by `dtype`, or that of the checkpoint for "auto".

    Raises:
        UnsupportedModel: The checkpoint's precision is not supported.
    """
    own = model.config.dtype or model.dtype
    resolved = str(own).removeprefix("torch.") if dtype == "auto" else dtype
    if resolved not in DTYPES:
        raise UnsupportedModel(f"{what} is stored as {resolved}: load it with dtype= one of {', '.join(DTYPES)}")
    return getattr(torch, resolved)
