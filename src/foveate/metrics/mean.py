"""The one torchmetrics shell around every number of this package: its mean over batches and processes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOf(Metric):
    """A mean of a function's values over everything it was shown, in float64; values that are NaN are left out.

    NaN where there was no other value. For whoever runs a loop of his own, on one device or on many; the evaluation
    itself keeps every value, sample by sample, and analysis takes the means.

    Args:
        function: From the arguments of `update` to a number, or to one per image in any shape: `exact_match`,
            `agreement`, `evidence_recall`, `partial(top_overlap, keep=64)`.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, function: Callable[..., Tensor | float | Sequence[float]]) -> None:
        super().__init__()
        self.function = function
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, *inputs: object, **options: object) -> None:
        values = torch.as_tensor(self.function(*inputs, **options), dtype=torch.float64, device=self.device)
        self.total += values.nansum()
        self.count += (~values.isnan()).sum()

    def compute(self) -> Tensor:
        return self.total / self.count
