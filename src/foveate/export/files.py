"""The files of a program: the program itself, and golden inputs and outputs beside it."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors.torch import save
from torch import Tensor
from torch.export import ExportedProgram

from foveate.compressors import Compressor
from foveate.core.errors import ExportError, FoveateError, OutputError, message_of
from foveate.core.storage import atomic_write
from foveate.export.description import DESCRIPTION, described
from foveate.export.inputs import recorded
from foveate.export.names import ONNX, golden_of
from foveate.export.program import KEPT, Program, counts_of, exported
from foveate.export.refusals import check_compressor, check_model
from foveate.models.loading.loaded_model import LoadedModel
from foveate.models.runtime.images import LiveImages

_NEAR = 1e-4  # merged tokens, whose sums engines round in their own way


def export(
    path: Path, name: str, compressor: Compressor, loaded: LoadedModel, images: Sequence[Image]
) -> dict[str, Any]:
    """Writes a compressor as a program, and golden inputs and outputs beside it; older files are replaced.

    The file is read again and run on the golden inputs before it appears.

    Args:
        path: Where; the name ends in ".pt2" (torch.export) or ".onnx".
        name: Name of the method, for the description and errors.
        compressor: The compressor.
        loaded: The model whose features and attention rows the program reads.
        images: Two or more images, which become the golden inputs.

    Returns:
        The description that stands in the file.

    Raises:
        ExportError: The compressor cannot become a program, or the program keeps other patches than the compressor.
        OutputError: The files cannot be written.
    """
    check_compressor(name, compressor)
    given, arrangements = loaded.image_inputs(images)
    check_model(loaded.name, loaded.adapter, arrangements[0])
    try:
        example = recorded(compressor, LiveImages(loaded.adapter, given, arrangements[0]))
        program = Program(compressor, example, counts_of(compressor, example))
        with torch.no_grad():
            golden = program(dict(example.inputs))
        graph = exported(program, example.inputs)
    except FoveateError as error:
        raise ExportError(f"{name} cannot be exported: {error}") from error
    description = described(name, compressor, example, golden, loaded.adapter)
    try:
        _write(path, graph, description, example.inputs, golden)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({message_of(error)}): expected the name of a file in a folder that you may "
            "write to, such as program.pt2"
        ) from error
    return description


def _write(
    path: Path,
    graph: ExportedProgram,
    description: Mapping[str, Any],
    inputs: Mapping[str, Tensor],
    golden: Mapping[str, Tensor],
) -> None:
    text = json.dumps(description)
    tensors = {f"inputs.{name}": value for name, value in inputs.items()}
    tensors |= {f"outputs.{name}": value.contiguous() for name, value in golden.items()}
    with ExitStack() as stack:  # neither file appears without the other
        temporary = stack.enter_context(atomic_write(path))
        beside = stack.enter_context(atomic_write(golden_of(path)))
        beside.write_bytes(save(tensors, {DESCRIPTION: text}))
        if path.suffix == ONNX:
            from foveate.export.onnx_file import outputs_of, write  # its packages are an extra

            write(temporary, graph, description, text)
            found = outputs_of(temporary, inputs)
        else:
            with temporary.open("wb") as file:
                torch.export.save(graph, file, extra_files={DESCRIPTION: text})
            with temporary.open("rb") as file:
                found = torch.export.load(file).module()(dict(inputs))
        _check(found, golden)


def _check(found: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> None:
    """Checks what the written program gives for the golden inputs.

    Raises:
        ExportError: It keeps other patches than the compressor, or makes other tokens of them.
    """
    for name, expected in golden.items():
        exact = not expected.is_floating_point()
        same = torch.equal(found[name], expected) if exact else torch.allclose(found[name], expected, _NEAR, _NEAR)
        if not same:
            image = next(i for i, (a, b) in enumerate(zip(found[name], expected, strict=True)) if not torch.equal(a, b))
            raise ExportError(
                f"the written program gives other {'patches' if name == KEPT else name} for image {image} than the "
                "compressor; nothing was written"
            )
