"""Metrics over a whole dataset: IoU, boundary IoU, boundary F1 and trimap IoU. They require only torchmetrics."""

from cpg_lightning.metrics.boundary_f1 import BoundaryF1Score
from cpg_lightning.metrics.boundary_iou import BoundaryIoU
from cpg_lightning.metrics.evaluation import SegmentationMetrics
from cpg_lightning.metrics.iou import AbsentClasses, ClassIoU, accuracies
from cpg_lightning.metrics.trimap import TrimapJaccardIndex

__all__ = [
    "AbsentClasses",
    "BoundaryF1Score",
    "BoundaryIoU",
    "ClassIoU",
    "SegmentationMetrics",
    "TrimapJaccardIndex",
    "accuracies",
]
