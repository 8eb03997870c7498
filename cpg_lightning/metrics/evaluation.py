"""All scores of an evaluation, and what was counted of each image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cpg_lightning.metrics.boundary_f1 import BoundaryF1Score
from cpg_lightning.metrics.boundary_iou import BoundaryIoU
from cpg_lightning.metrics.counting import fraction
from cpg_lightning.metrics.iou import AbsentClasses, ClassIoU, accuracies
from cpg_lightning.metrics.mean_loss import MeanLoss
from cpg_lightning.metrics.trimap import TrimapJaccardIndex


@dataclass
class ImageCounts:
    """Pixel counts of one image, on the metrics' device.

    Attributes:
        confusion: Pixels of each target class (rows) predicted as each class (columns), int64 (C, C).
        boundary: Pixels in both inner bands, in the prediction's and in the label's, of each class, int64 (3, C).
    """

    confusion: Tensor
    boundary: Tensor


@dataclass
class ImageScores:
    """The scores of one image, NaN where there is nothing to score, and the counts that they follow from.

    Attributes:
        name: Name of the image.
        boundary_iou: Mean boundary IoU of its classes.
        mIoU: Mean IoU of its classes.
        pixel_accuracy: Fraction of its pixels that are right.
        region: Intersection, prediction and label pixels of each class, int64 (C, 3).
        boundary: The same of the boundary bands.
    """

    name: str
    boundary_iou: float
    mIoU: float
    pixel_accuracy: float
    region: np.ndarray
    boundary: np.ndarray


@dataclass
class Scores:
    """The scores of an evaluation, on the CPU.

    Attributes:
        confusion: Pixels of each class (rows) predicted as each class (columns), int64 (C, C).
        iou: IoU of each class, float64 (C), NaN for a class that is left out.
        means: The scores that are logged, by name.
        boundary_iou: Boundary IoU of each class, float64 (C), NaN for a class without a boundary; None where the evaluation
            has no boundary metrics.
        trimap: Mean IoU in the band of each width in pixels; None likewise.
    """

    confusion: Tensor
    iou: Tensor
    means: dict[str, Tensor]
    boundary_iou: Tensor | None = None
    trimap: dict[int, Tensor] | None = None


class SegmentationMetrics(nn.Module):
    """IoU, boundary IoU, boundary F1 and trimap IoU of an evaluation.

    The last three cost more than the first. In training every n-th validation has them, and the last.

    Args:
        num_classes: Number of classes C.
        absent_classes: How the mIoU treats a class that no label has; see :class:`~cpg_lightning.metrics.ClassIoU`.
        dilation_ratio: Width of the band of the boundary IoU, as a fraction of the image's diagonal.
        boundary_metrics_every: Every n-th validation of a training has boundary metrics.
        loss_terms: Names of the criterion's terms, for evaluations with the mean loss.

    Attributes:
        loss: The mean loss; the caller updates it where ``with_loss`` is set.
        validations: Number of validations of the training that have ended.
        with_boundaries: Whether the evaluation that is running has boundary metrics.
        with_loss: Whether it has the mean loss.

    Shape:
        - preds: predicted classes, integer, :math:`(B, H, W)`
        - target: classes or 255, integer, :math:`(B, H, W)`

    Raises:
        ValueError: For numbers out of range.

    Example:
        >>> metrics = SegmentationMetrics(num_classes=2)
        >>> metrics.begin()
        >>> target = torch.arange(2).expand(1, 8, 2)
        >>> images = metrics.update(target, target)
        >>> metrics.compute().means["mIoU"]
        tensor(1., dtype=torch.float64)
    """

    def __init__(
        self,
        num_classes: int,
        absent_classes: AbsentClasses = "skip",
        dilation_ratio: float = 0.02,
        boundary_metrics_every: int = 1,
        loss_terms: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if boundary_metrics_every < 1:
            raise ValueError(
                f"expected boundary_metrics_every to be 1 or more validations, got {boundary_metrics_every}"
            )
        self.iou = ClassIoU(num_classes, absent=absent_classes)
        self.boundary_iou = BoundaryIoU(num_classes, dilation_ratio, average="none")
        self.boundary_f1 = BoundaryF1Score(num_classes)
        self.trimap = TrimapJaccardIndex(num_classes)
        self.loss = MeanLoss(loss_terms)
        self.boundary_metrics_every = boundary_metrics_every
        self.validations = 0
        self.with_boundaries = True
        self.with_loss = False

    @property
    def boundary_means(self) -> list[str]:
        """The names of the mean scores that only an evaluation with boundary metrics has."""
        f1 = [f"boundary_F1/{threshold:g}px" for threshold in self.boundary_f1.thresholds]
        return ["boundary_IoU", *f1, *(f"trimap_mIoU/{width}px" for width in self.trimap.widths)]

    @property
    def means(self) -> list[str]:
        """The names of all mean scores."""
        return ["mIoU", "pixel_accuracy", "class_accuracy", "fwIoU", *self.boundary_means]

    def begin(self, training: bool = False, last: bool = False, loss: bool = False) -> None:
        """Start an evaluation.

        Args:
            training: Whether it is a validation of a training. Otherwise it has boundary metrics.
            last: Whether it is the last of that training.
            loss: Whether it has the mean loss.
        """
        due = (self.validations + 1) % self.boundary_metrics_every == 0
        self.with_boundaries = due or last or not training
        self.with_loss = loss
        self.reset()

    def update(self, preds: Tensor, target: Tensor) -> list[ImageCounts]:
        """Count the pixels of a batch.

        Returns:
            The counts of each image; empty for an evaluation without boundary metrics.
        """
        if not self.with_boundaries:
            self.iou.update(preds, target)
            return []
        return [self._count(*image) for image in zip(torch.split(preds, 1), torch.split(target, 1), strict=True)]

    def _count(self, preds: Tensor, target: Tensor) -> ImageCounts:
        """Count the pixels of one image (1, H, W)."""
        for metric in (self.iou, self.boundary_iou, self.boundary_f1, self.trimap):
            metric.update(preds, target)
        return ImageCounts(self.iou.last_confusion, self.boundary_iou.last_counts)

    def compute(self) -> Scores:
        """The scores of everything since :meth:`begin`. All processes must call it: their counts are added."""
        iou, confusion = self.iou.compute(), self.iou.confusion_matrix().cpu()
        scores = Scores(confusion, iou, {"mIoU": iou.nanmean(), **accuracies(confusion)})
        if self.with_boundaries:
            scores.boundary_iou = self.boundary_iou.compute()
            trimap = self.trimap.compute()
            scores.trimap = dict(zip(self.trimap.widths, trimap, strict=True))
            means = [scores.boundary_iou.nanmean(), *self.boundary_f1.compute(), *trimap]
            scores.means |= zip(self.boundary_means, means, strict=True)
        if self.with_loss:
            scores.means |= self.loss.compute()
        return scores

    def reset(self) -> None:
        """Forget what was counted."""
        for metric in (self.iou, self.boundary_iou, self.boundary_f1, self.trimap, self.loss):
            metric.reset()


def image_scores(name: str, counts: ImageCounts) -> ImageScores:
    """The scores of one image from its counts."""
    # One copy, as the host waits for each.
    counted = torch.cat([counts.confusion, counts.boundary]).cpu()
    confusion, bands = counted[:-3], counted[-3:]
    region = torch.stack([confusion.diagonal(), confusion.sum(dim=0), confusion.sum(dim=1)])
    iou, boundary_iou = (fraction(both, first + second - both).nanmean() for both, first, second in (region, bands))
    accuracy = fraction(confusion.diagonal().sum(), confusion.sum())
    return ImageScores(name, boundary_iou.item(), iou.item(), accuracy.item(), region.T.numpy(), bands.T.numpy())
