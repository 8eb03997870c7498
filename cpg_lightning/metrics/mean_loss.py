"""The mean of a criterion over the images of an evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """The mean of a criterion and of its terms over the images of an evaluation.

    The value of a batch counts as often as it has images, also where none of its pixels is labelled.

    Args:
        terms: Names of the criterion's terms.
        kwargs: Keyword arguments of ``torchmetrics.Metric``.

    Shape:
        - loss: scalar
        - terms: scalar by name
        - output: scalar by name, float64, on the CPU: ``loss`` and the terms; NaN without an image

    Example:
        >>> metric = MeanLoss(["ce"])
        >>> metric.update(torch.tensor(1.5), {"ce": torch.tensor(1.0)}, images=3)
        >>> metric.update(torch.tensor(0.5), {"ce": torch.tensor(0.0)}, images=1)
        >>> metric.compute()
        {'loss': tensor(1.2500, dtype=torch.float64), 'ce': tensor(0.7500, dtype=torch.float64)}
    """

    total: Tensor
    images: Tensor

    def __init__(self, terms: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.terms = tuple(terms)
        self.add_state("total", torch.zeros(1 + len(self.terms)), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def names(self) -> list[str]:
        """The names of the means."""
        return ["loss", *self.terms]

    def update(self, loss: Tensor, terms: Mapping[str, Tensor], images: int) -> None:
        """Add the value of a batch.

        Args:
            loss: The criterion of the batch.
            terms: Its terms, one for each name.
            images: Number of images in the batch.
        """
        # `Trainer(precision="bf16-true")` converts the states to a precision in which small numbers vanish in a large sum.
        self.total = self.total.float() + images * torch.stack([loss, *(terms[name] for name in self.terms)])
        self.images += images

    def compute(self) -> dict[str, Tensor]:
        """The means by name."""
        return dict(zip(self.names, self.total.cpu().double() / self.images.cpu(), strict=True))
