"""Mean intersection over union in bands around the target's boundaries."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cpg_lightning.metrics.bands import label_map, two_sided_bands
from cpg_lightning.metrics.counting import check_num_classes, count
from cpg_lightning.metrics.curve import CurveMetric
from cpg_lightning.metrics.iou import intersection_over_union


class TrimapJaccardIndex(CurveMetric):
    """Mean intersection over union in bands around the target's boundaries, for each of several widths.

    A boundary pixel is a pixel with one of its 4 neighbours in another class. The band of width w contains all pixels
    within a Chebyshev distance of w from a boundary pixel. Boundary pixels lie on both sides of a boundary, so the band
    of a straight boundary has w + 1 pixels on each side. Borders of ignored regions are not boundaries, and ignored
    pixels are not counted. Each width has one confusion matrix over the dataset. A class that is absent from both
    predictions and targets in the band is left out of the mean.

    Args:
        num_classes: Number of classes C.
        widths: Widths of the bands in pixels.
        ignore_index: Target value of ignored pixels.
        kwargs: Keyword arguments of ``torchmetrics.Metric``.

    Shape:
        - preds: predicted classes, integer, :math:`(N, H, W)`
        - target: classes or ``ignore_index``, integer, :math:`(N, H, W)`
        - output: float64 :math:`(W)`, one value per width

    Raises:
        ValueError: For numbers out of range.

    Source: Kohli et al., "Robust Higher Order Potentials for Enforcing Label Consistency", 2009, for the idea. The
    definition of boundary pixels is this package's own.

    Example:
        >>> target = torch.zeros(1, 8, 8, dtype=torch.int64)
        >>> target[:, :, 4:] = 1
        >>> metric = TrimapJaccardIndex(num_classes=2, widths=(0, 3))
        >>> metric(target.roll(1, dims=2), target)
        tensor([0.2500, 0.6000], dtype=torch.float64)
    """

    confmat: Tensor

    def __init__(
        self, num_classes: int, widths: Sequence[int] = (1, 2, 3, 5, 10), ignore_index: int = 255, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_num_classes(num_classes)
        if not widths or min(widths) < 0 or any(width != int(width) for width in widths):
            raise ValueError(f"expected widths to be whole numbers of pixels, got {widths}")
        self.num_classes = num_classes
        self.widths = tuple(widths)
        self.ignore_index = ignore_index
        shape = (len(widths), num_classes, num_classes)
        self.add_state("confmat", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the pixels of a batch in each band."""
        self.confmat += band_confusions(preds, target, self.widths, self.num_classes, self.ignore_index)

    def compute(self) -> Tensor:
        """The mean IoU in each band."""
        return torch.stack(
            [intersection_over_union(each, "skip", self.ignore_index).nanmean() for each in self.confmat]
        )


def band_confusions(
    preds: Tensor, target: Tensor, widths: Sequence[int], num_classes: int, ignore_index: int
) -> Tensor:
    """The confusion matrix within the band of each width, int64 (W, C, C)."""
    ignored, ascending = target == ignore_index, sorted(widths)
    labels = label_map(target, ignored)
    levels = two_sided_bands(labels, ascending).masked_fill_(ignored, len(ascending))
    # One integer per level and pair of classes. Pixels of the last level are outside all bands.
    confusions = len(ascending) * num_classes**2
    bins = levels.to(torch.int32).mul_(num_classes).add_(labels).mul_(num_classes).add_(preds.to(torch.uint8))
    counts = count(bins.clamp_(max=confusions).view(1, -1), confusions + 1)[0, :-1]
    cumulative = counts.view(-1, num_classes, num_classes).cumsum(dim=0)
    return torch.stack([cumulative[ascending.index(width)] for width in widths])
