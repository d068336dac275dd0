"""ONNX files: written from an exported program, and run by ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor
from torch.export import ExportedProgram

from foveate.core.errors import ExportError, message_of
from foveate.export.description import DESCRIPTION
from foveate.export.onnx_operators import OPERATORS

_BATCH = "batch"


def write(path: Path, graph: ExportedProgram, description: Mapping[str, Any], text: str) -> None:
    """Writes an ONNX model whose first axes are called "batch".

    Args:
        path: Where.
        graph: The exported program.
        description: Its description; see `described`.
        text: The description as JSON, which becomes a property of the model.

    Raises:
        ExportError: An operation has no translation.
    """
    try:
        made: Any = torch.onnx.export(
            graph,
            dynamo=True,
            verbose=False,
            input_names=list(description["inputs"]),
            output_names=list(description["outputs"]),
            custom_translation_table=dict(OPERATORS),
        )
        model = made.model_proto
    except Exception as error:  # of any kind: the translation of each operation is code of its own
        raise ExportError(f"torch.onnx cannot translate it: {message_of(error)}") from error
    _name_batch(model.graph)
    model.metadata_props.add(key=DESCRIPTION, value=text)
    path.write_bytes(model.SerializeToString())


def outputs_of(path: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the outputs of an ONNX model by name, computed by ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {name: value.numpy() for name, value in inputs.items()}
    names = [output.name for output in session.get_outputs()]
    return {name: torch.from_numpy(value) for name, value in zip(names, session.run(names, given), strict=True)}


def _name_batch(graph: onnx.GraphProto) -> None:
    """Renames the symbol that torch made up for the number of images, wherever it stands."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            size.dim_param = size.dim_param.replace(symbol, _BATCH)
