"""Reads checkpoint folders, whose content is not trusted, and raises errors that name the unusable part.

Weights are read from safetensors only, which hold no code, and code in the folder is never run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from foveate.core.errors import FoveateError, UnsupportedModel, message_of
from foveate.core.progress import bars_visible

SAFE: dict[str, Any] = {"trust_remote_code": False}
"""Options for every call of transformers that reads from a checkpoint."""


def config_of(what: str, source: str, hint: str = "", **options: Any) -> Any:  # noqa: ANN401 (a class per family)
    """Returns the configuration of a checkpoint.

    Args:
        what: Name of the checkpoint in error messages, such as "model 'name'".
        source: Folder or hub id.
        hint: Advice for the error message if there is no configuration.
        options: Passed to `from_pretrained`.

    Raises:
        UnsupportedModel: The configuration is missing or cannot be read.
    """
    with reading(f"{what}: neither 'reference', nor a checkpoint folder, nor a reachable hub id", hint):
        return AutoConfig.from_pretrained(source, **SAFE, **options)


def weights_of(what: str, kind: Any, source: str, **options: Any) -> PreTrainedModel:  # noqa: ANN401 (a class)
    """Returns the model of a checkpoint with all of its weights.

    Args:
        what: Name of the checkpoint in error messages.
        kind: Class of transformers that reads it.
        source: Folder or hub id.
        options: Passed to `from_pretrained`.

    Raises:
        UnsupportedModel: Weights are damaged, missing, or of another shape than in the configuration.
    """
    hint = (
        f"Looked for: config.json, *.safetensors, tokenizer and image processor; `hf download {source}` fetches them, "
        "into the folder that HF_HOME names"
    )
    with reading(f"{what} is incomplete", hint), _bars():
        model, report = kind.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **SAFE, **options
        )
    if missing := sorted(report["missing_keys"]):
        raise UnsupportedModel(f"{what} lacks {len(missing)} of its weights, such as {missing[0]}. {hint}")
    if wrong := sorted(report["mismatched_keys"]):
        name, there, expected = wrong[0]
        raise UnsupportedModel(
            f"{what}: {len(wrong)} of its weights do not match its config.json, such as {name}: {tuple(there)} "
            f"there, {tuple(expected)} expected; take both from the same checkpoint"
        )
    return model


@contextmanager
def _bars() -> Iterator[None]:
    """Hides the progress bars of transformers unless a terminal or notebook shows them."""
    hidden = is_progress_bar_enabled() and not bars_visible()
    if hidden:
        disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            enable_progress_bar()


@contextmanager
def reading(failure: str, hint: str = "") -> Iterator[None]:
    """Converts any error inside the context, because transformers raises errors of many types for damaged files.

    Args:
        failure: First part of the message.
        hint: Advice at the end of the message.

    Raises:
        UnsupportedModel: An error other than lack of memory was raised inside the context.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except FoveateError as error:
        raise UnsupportedModel(f"{failure} ({error}). {hint}".strip()) from error
    except Exception as error:
        raise UnsupportedModel(f"{failure} ({type(error).__name__}: {message_of(error)}). {hint}".strip()) from error


def on_device(model: Any, device: str | torch.device) -> Any:  # noqa: ANN401 (a class per family)
    """Moves a model to a device and returns it.

    Raises:
        UnsupportedModel: The device does not exist or cannot hold the model.
    """
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it stores no values")
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UnsupportedModel(f"device {str(device)!r} cannot be used: {message_of(error)}") from error


def in_one_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Converts all weights to one precision, in place.

    Offloaded weights are on the meta device, and accelerate converts their values whenever it reads them. Buffers are
    not converted: the frequencies of rotary positions are in float32 at any precision.
    """
    for weight in model.parameters():
        if weight.is_floating_point() and weight.dtype != dtype:
            weight.data = weight.data.to(dtype)


def device_of(model: PreTrainedModel) -> torch.device:
    """Returns the device for a model's inputs, also if its first weights are offloaded."""
    weights = (weight.device for weight in model.parameters() if not weight.is_meta)
    hooks = (getattr(hook, "execution_device", None) for module in model.modules() for hook in _hooks(module))
    named = (torch.device(device) for device in hooks if device is not None)
    devices = named if model.device.type == "meta" else weights
    return next((device for device in devices if device.type != "meta"), model.device)


def weights_in(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields all weights and buffers by name, and loads offloaded ones one at a time.

    Raises:
        UnsupportedModel: A weight is on the meta device and no hook of accelerate holds its values.
    """
    for name, value in sorted(model.state_dict().items()):
        yield name, _offloaded(model, name, value) if value.is_meta else value


def _offloaded(model: nn.Module, name: str, value: Tensor) -> Tensor:
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        for hook in _hooks(model.get_submodule(".".join(parts[:depth]))):
            try:
                return hook.weights_map[".".join(parts[depth:])].to(value.dtype)
            except (AttributeError, KeyError, TypeError):  # a hook without this weight
                continue
    raise UnsupportedModel(
        f"weight {name} is on the meta device, without a hook of accelerate that holds its values: load the model with "
        "device_map, or without offloading"
    )


def _hooks(module: nn.Module) -> list[Any]:
    """Returns the hooks by which accelerate moves a module's weights."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))
