"""Intersection over union of inner boundary bands."""

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from cpg_lightning.metrics.bands import VOID, inner_bands, label_map
from cpg_lightning.metrics.counting import check_num_classes, count, fraction, without_class


class BoundaryIoU(Metric):
    r"""Intersection over union of the inner boundary bands of predictions and targets, over a whole dataset.

    .. math::
        \mathrm{BIoU}_c = \frac{\sum_n |G^d_{n,c} \cap P^d_{n,c}|}{\sum_n |G^d_{n,c} \cup P^d_{n,c}|}

    The band of a class is the part of its mask that erosion with a box of :math:`2d + 1` pixels removes. The image
    border counts as a boundary. The width d is a fraction of the image's diagonal, rounded, at least 1. In the target,
    ignored pixels form a segment of their own. In the prediction they keep their predicted class. Ignored pixels are
    not counted.

    Args:
        num_classes: Number of classes C.
        dilation_ratio: Width d as a fraction of the diagonal: 0.005 for Cityscapes, 0.02 for others.
        ignore_index: Target value of ignored pixels.
        average: ``"macro"``, the mean over the classes with a band, or ``"none"``, one value per class.
        kwargs: Keyword arguments of ``torchmetrics.Metric``.

    Attributes:
        last_counts: Counts of the last batch: for each class, the pixels in both bands, in the predicted band and in
            the target's band, int64 (3, C); zeros before the first batch.
        last_size: Height and width of the images of the last batch; None before the first batch.

    Shape:
        - preds: predicted classes, integer, :math:`(N, H, W)`
        - target: classes or ``ignore_index``, integer, :math:`(N, H, W)`
        - output: float64, a scalar or :math:`(C)`, NaN for a class without a band

    Raises:
        ValueError: For numbers out of range.

    Source: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", 2021. The paper
    evaluates objects; here classes are evaluated, with counts over the dataset. Ignored pixels are treated as in the
    paper's panoptic evaluation.

    Example:
        >>> target = torch.zeros(1, 8, 8, dtype=torch.int64)
        >>> target[:, :, 4:] = 1
        >>> metric = BoundaryIoU(num_classes=2)
        >>> metric(target, target)
        tensor(1., dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    intersection: Tensor
    union: Tensor

    def __init__(
        self,
        num_classes: int,
        dilation_ratio: float = 0.02,
        ignore_index: int = 255,
        average: Literal["macro", "none"] = "macro",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_num_classes(num_classes)
        if not 0 < dilation_ratio < 1:
            raise ValueError(
                f"expected dilation_ratio to be a fraction of the diagonal between 0 and 1, got {dilation_ratio}"
            )
        if average not in ("macro", "none"):
            raise ValueError(f"expected average to be macro or none, got {average!r}")
        self.num_classes = num_classes
        self.dilation_ratio = dilation_ratio
        self.ignore_index = ignore_index
        self.average = average
        self.last_counts = torch.zeros(3, num_classes, dtype=torch.int64)
        self.last_size: tuple[int, int] | None = None
        for state in ("intersection", "union"):
            self.add_state(state, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def width(self, height: int, width: int) -> int:
        """The band's width d in pixels for images of the given height and width."""
        return max(1, round(self.dilation_ratio * math.hypot(height, width)))

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the boundary pixels of a batch."""
        height, width = target.shape[-2:]
        self.last_size = (height, width)
        width = self.width(height, width)
        self.last_counts = band_counts(preds, target, self.num_classes, width, self.ignore_index)
        both, in_preds, in_target = self.last_counts
        self.intersection += both
        self.union += in_preds + in_target - both

    def compute(self) -> Tensor:
        """The mean over classes, or the value of each class."""
        values = without_class(fraction(self.intersection, self.union), self.ignore_index)
        return values.nanmean() if self.average == "macro" else values


def band_counts(preds: Tensor, target: Tensor, num_classes: int, width: int, ignore_index: int) -> Tensor:
    """Pixels of each class in both inner bands, in the predicted band and in the target's band, int64 (3, C)."""
    ignored = target == ignore_index
    labels = torch.cat([label_map(target, ignored), preds.to(torch.uint8)])  # (2N, H, W)
    outside = ~inner_bands(labels, width).view(2, -1)
    outside |= ignored.view(-1)
    in_target, in_preds = labels.view(2, -1).masked_fill_(outside, VOID)
    in_both = in_target.masked_fill(in_target != in_preds, VOID)
    targets, predictions, both = count(torch.stack([in_target, in_preds, in_both]), VOID + 1)[:, :num_classes]
    return torch.stack([both, predictions, targets])
