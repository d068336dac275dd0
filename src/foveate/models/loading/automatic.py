"""Device, precision and number of questions per batch that "auto" means for a checkpoint on a machine."""

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig

from foveate.core.errors import DeviceError, UnsupportedModel, shown
from foveate.models.loading.checkpoint import reading
from foveate.models.loading.loaded_model import LoadedModel
from foveate.models.loading.names import AUTO, DTYPES, SHIPPED, check_model, folder_of

LARGEST_BATCH = 256
"""Questions per batch of the shipped models, and the most that "auto" chooses."""
_TEXT_TOKENS = 256  # of a question and its answer
FLOATING = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Floating-point types by their names in safetensors."""
_USED = {"cpu": 0.5}  # the share of the memory that may be used; a CPU shares it with the rest of the machine
_USED_ELSEWHERE = 0.8


def resolved(name: str | Path, device: str, dtype: str) -> tuple[str, str]:
    """Returns device and precision with "auto" resolved, see `device_for` and `dtype_for`.

    Args:
        name: See `load`.
        device: A device, or "auto".
        dtype: A precision, or "auto".
    """
    device = device_for(device)
    return device, dtype_for(name, dtype, device)


def device_for(device: str) -> str:
    """Returns the device that "auto" means: CUDA if there is one, else MPS, else the CPU; others are unchanged."""
    if device != AUTO:
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def dtype_for(name: str | Path, dtype: str, device: str) -> str:
    """Returns the precision that "auto" means: float32 on a CPU, elsewhere that of the checkpoint.

    Args:
        name: See `load`.
        dtype: "auto", or a precision, which is returned as it is.
        device: The device that the model runs on.

    Raises:
        UnsupportedModel: The checkpoint cannot be read, or it is stored in a precision that is not supported.
        DeviceError: There is no such kind of device.
    """
    if dtype != AUTO:
        return dtype
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise DeviceError(f"device {shown(device)} is unknown: expected auto, cpu, cuda, cuda:1 or mps") from error
    if kind == "cpu":
        return "float32"
    stored = stored_dtype(name)
    if stored not in DTYPES:
        raise UnsupportedModel(f"model {shown(str(name))} is stored as {stored}: choose a dtype of {', '.join(DTYPES)}")
    return stored


def stored_dtype(name: str | Path) -> str:
    """Returns the precision that a checkpoint is stored in, by its configuration, else by most of its tensors.

    Args:
        name: See `load`.

    Raises:
        UnsupportedModel: The checkpoint cannot be read.
    """
    check_model(name)
    source = folder_of(name)
    with reading(f"model {shown(str(name))}: neither 'reference', nor a checkpoint folder, nor a reachable hub id"):
        config, _ = PreTrainedConfig.get_config_dict(source)
        for part in (config, config.get("text_config") or {}):
            if named := part.get("dtype") or part.get("torch_dtype"):
                return str(named).removeprefix("torch.")
        kinds: Counter[str] = Counter()
        for path in sorted(Path(source).glob("*.safetensors")):
            with safe_open(path, "pt") as tensors:
                kinds.update(tensors.get_slice(key).get_dtype() for key in tensors.keys())
    found = [(count, FLOATING[kind]) for kind, count in kinds.items() if kind in FLOATING]
    return max(found)[1] if found else "float32"


def batch_size_for(loaded: LoadedModel) -> int:
    """Returns a number of questions per batch that fits into the memory of a model's device.

    It is a power of two and depends on the model and on the whole memory of the device, not on what is free at the
    moment, because in half precision it is part of a run's identity.

    Args:
        loaded: The model.
    """
    memory = memory_of(loaded.device)
    if loaded.name in SHIPPED or memory is None:
        return LARGEST_BATCH if loaded.name in SHIPPED else 1
    share = _USED.get(loaded.device.type, _USED_ELSEWHERE)
    weights = sum(weight.numel() * weight.element_size() for weight in loaded.model.parameters())
    tokens = loaded.adapter.tower.grid.patches + _TEXT_TOKENS
    fitting = (share * memory - weights) / (tokens * _bytes_per_token(loaded))
    return 2 ** (min(LARGEST_BATCH, max(1, int(fitting))).bit_length() - 1)


def _bytes_per_token(loaded: LoadedModel) -> int:
    """Returns twice the memory for the keys and values of a token and for its activations in one block."""
    config: Any = loaded.adapter.text_config
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    cached = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * head
    passing = 6 * config.hidden_size + 3 * config.intermediate_size
    return 2 * (cached + passing) * loaded.model.dtype.itemsize


def memory_of(device: torch.device) -> int | None:
    """Returns the whole memory of a device in bytes, None if it is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    if device.type == "cpu":
        with suppress(ValueError, OSError, AttributeError):  # no such value on this system
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
