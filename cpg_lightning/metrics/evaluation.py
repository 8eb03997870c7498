"""What an evaluation counts of each image, and the scores that follow."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cpg_lightning.metrics.counting import fraction, without_class
from cpg_lightning.metrics.iou import intersection_over_union


@dataclass
class ImageCounts:
    """What metrics counted of one image, on their device.

    Attributes:
        confusion: Pixels of each target class (rows) predicted as each class (columns), int64 (C, C).
        boundary: Pixels in both inner bands and in either, of each class, int64 (2, C).
    """

    confusion: Tensor
    boundary: Tensor


@dataclass
class ImageScores:
    """The scores of one image, NaN where there is nothing to score."""

    name: str
    boundary_iou: float
    mIoU: float
    pixel_accuracy: float


def image_scores(name: str, counts: ImageCounts, ignore_index: int) -> ImageScores:
    """The scores of one image from what was counted."""
    # One copy, as the host waits for each.
    *rows, both, either = torch.cat([counts.confusion, counts.boundary]).cpu()
    confusion = torch.stack(rows)
    iou = intersection_over_union(confusion, "skip", ignore_index)
    boundary_iou = without_class(fraction(both, either), ignore_index)
    accuracy = fraction(confusion.diagonal().sum(), confusion.sum())
    return ImageScores(name, boundary_iou.nanmean().item(), iou.nanmean().item(), accuracy.item())
