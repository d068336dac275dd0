"""ONNX operators for operations of torch that its exporter does not translate."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnxscript.onnx_opset import opset18

op: Any = opset18  # its types are those of ONNX, not of what it returns while it builds a model


def sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:  # noqa: ANN401 (of onnxscript)
    """Returns values and indices in order; TopK puts the lower index first among equal values, so it is stable."""
    size = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]), axis=0)
    return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)


def searchsorted(
    ordered: Any,  # noqa: ANN401 (of onnxscript)
    values: Any,  # noqa: ANN401
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: object = None,
) -> Any:  # noqa: ANN401
    """Returns how many of the `ordered` values are below each value; with `right` those that are equal count, too."""
    last = op.Constant(value_ints=[-1])
    ordered, values = op.Unsqueeze(ordered, op.Constant(value_ints=[-2])), op.Unsqueeze(values, last)
    below = op.LessOrEqual(ordered, values) if right else op.Less(ordered, values)
    return op.ReduceSum(op.Cast(below, to=7), last, keepdims=0)  # 7 is int64


OPERATORS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.sort.stable: sort,
    torch.ops.aten.searchsorted.Tensor: searchsorted,
}
"""Functions that build the ONNX operators, by the operation of torch."""
