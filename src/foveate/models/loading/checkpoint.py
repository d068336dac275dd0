"""Reads what lies in a checkpoint folder, of which nothing is believed: what cannot be used is named.

Weights are read from safetensors only, which hold numbers and nothing that could run, and code in the folder stays
where it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from foveate.core.errors import FoveateError, UnsupportedModel, said
from foveate.core.progress import bars_visible

SAFE: dict[str, Any] = {"trust_remote_code": False}
"""For every call of transformers that reads from a checkpoint."""


def config_of(what: str, source: str, hint: str = "", **options: Any) -> Any:  # noqa: ANN401 (a class per family)
    """The configuration of a checkpoint.

    Args:
        what: It is, for messages, such as "model 'name'".
        source: Folder or hub id.
        hint: What to do where there is none.
        options: For `from_pretrained`.

    Raises:
        UnsupportedModel: There is none that can be read.
    """
    with reading(f"{what}: neither 'reference', nor a checkpoint folder, nor a reachable hub id", hint):
        return AutoConfig.from_pretrained(source, **SAFE, **options)


def weights_of(what: str, kind: Any, source: str, **options: Any) -> PreTrainedModel:  # noqa: ANN401 (a class)
    """The model of a checkpoint, with all of its weights.

    Args:
        what: It is, for messages.
        kind: Class of transformers that reads it.
        source: Folder or hub id.
        options: For `from_pretrained`.

    Raises:
        UnsupportedModel: Weights are damaged, lacking, or of another shape than the configuration says.
    """
    hint = (
        f"Looked for: config.json, *.safetensors, tokenizer and image processor; `hf download {source}` fetches them, "
        "and HF_HOME tells where from"
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
            f"{what}: {len(wrong)} of its weights are not as its config.json says, such as {name}: {tuple(there)} "
            f"there, {tuple(expected)} expected; take both from the same checkpoint"
        )
    return model


@contextmanager
def _bars() -> Iterator[None]:
    """Those of transformers only where somebody sees them."""
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
    """What fails inside is no fault of the program: transformers raises what it likes at damaged files.

    Raises:
        UnsupportedModel: With what was said, this failure before it and the hint behind it.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except FoveateError as error:
        raise UnsupportedModel(f"{failure} ({error}). {hint}".strip()) from error
    except Exception as error:
        raise UnsupportedModel(f"{failure} ({type(error).__name__}: {said(error)}). {hint}".strip()) from error


def placed(model: Any, device: str | torch.device) -> Any:  # noqa: ANN401 (a class per family)
    """The model on the device.

    Raises:
        UnsupportedModel: There is no such device.
    """
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no numbers")
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UnsupportedModel(f"device {str(device)!r} cannot be used: {said(error)}") from error


def in_one_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Brings all weights to one precision, in place.

    Offloaded weights are on the meta device, and accelerate converts their values to its dtype whenever it reads them.
    Buffers stay as the stock model has them: the frequencies of rotary positions are in float32 at any precision.
    """
    for weight in model.parameters():
        if weight.is_floating_point() and weight.dtype != dtype:
            weight.data = weight.data.to(dtype)


def device_of(model: PreTrainedModel) -> torch.device:
    """Returns where inputs of a model belong, also if its first weights are offloaded."""
    weights = (weight.device for weight in model.parameters() if not weight.is_meta)
    hooks = (getattr(hook, "execution_device", None) for module in model.modules() for hook in _hooks(module))
    named = (torch.device(device) for device in hooks if device is not None)
    devices = named if model.device.type == "meta" else weights
    return next((device for device in devices if device.type != "meta"), model.device)


def weights_in(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields all weights and buffers by name; of offloaded ones the values, one at a time.

    Raises:
        UnsupportedModel: A weight is on the meta device, and nothing says where its values are.
    """
    for name, value in sorted(model.state_dict().items()):
        yield name, _offloaded(model, name, value) if value.is_meta else value


def _offloaded(model: nn.Module, name: str, value: Tensor) -> Tensor:
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        for hook in _hooks(model.get_submodule(".".join(parts[:depth]))):
            try:
                return hook.weights_map[".".join(parts[depth:])].to(value.dtype)
            except (AttributeError, KeyError, TypeError):  # another hook, or none that has this weight
                continue
    raise UnsupportedModel(
        f"weight {name} is on the meta device, without a hook of accelerate that knows its values: load the model with "
        "device_map, or whole"
    )


def _hooks(module: nn.Module) -> list[Any]:
    """Returns what accelerate has attached to a module to move its weights."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))
