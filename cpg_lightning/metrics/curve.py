"""A metric with one value for each of several distances."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchmetrics import Metric


class CurveMetric(Metric):
    """A metric whose value is always one-dimensional: one entry per distance, even for a single distance.

    ``torchmetrics.Metric`` would turn a tensor with one entry into a scalar.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def with_one_dimension() -> Tensor:
            value: Tensor = wrapped()
            return value.view(-1)

        return with_one_dimension
