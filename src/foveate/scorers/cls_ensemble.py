"""Attention of [CLS], combined over several layers.

Source: arXiv 2412.05819 (VTC-CLS): the unweighted sum over the layers from some layer to the one that writes the
features.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.layers import Layers, LayersFrom
from foveate.core.needs import ClsRows, Need
from foveate.core.trace import Trace
from foveate.core.transfer import on_device
from foveate.functional.attention import reduce_heads


@dataclass(frozen=True)
class ClsEnsemble(Scorer):
    """Scorer by the attention that [CLS] pays to a patch in several layers.

    Attributes:
        layers: Layer numbers, or `LayersFrom(start)`. In LLaVA-1.5 the default means layers 20, 21 and 22.
        weights: One factor per layer; empty means 1 for each layer.
        reduce: Reduction over the weighted layers.
        heads: See `ClsAttention`.
    """

    layers: Layers = LayersFrom(-4)
    weights: tuple[float, ...] = ()
    reduce: Literal["sum", "mean", "max", "min"] = "sum"
    heads: Literal["mean", "sum", "max"] | tuple[int, ...] = "mean"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (ClsRows(self.layers),)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        rows = reduce_heads(trace[self.needs[0]], self.heads)
        if self.weights:
            if len(self.weights) != rows.shape[1]:
                raise ValueError(f"{len(self.weights)} weights for {rows.shape[1]} layers: give one per layer, or none")
            rows = rows * on_device(torch.tensor(self.weights, dtype=rows.dtype), rows.device)[:, None]
        match self.reduce:
            case "sum":
                return rows.sum(1)
            case "mean":
                return rows.mean(1)
            case "max":
                return rows.amax(1)
            case "min":
                return rows.amin(1)
