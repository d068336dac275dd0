"""Means of any number per image, over batches and processes."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOf(Metric):
    """Mean of a function's values over everything it was shown, in float64; values that are NaN are left out.

    NaN where there was no other value.

    Args:
        function: From the arguments of `update` to one value per image, in any shape, such as
            `partial(top_overlap, keep=64)`.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, *inputs: object, **options: object) -> None:
        values = self.function(*inputs, **options).double()
        self.total += values.nansum()
        self.count += (~values.isnan()).sum()

    def compute(self) -> Tensor:
        return self.total / self.count
