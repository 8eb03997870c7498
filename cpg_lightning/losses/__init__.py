"""Losses for semantic segmentation, in plain torch."""

from .active_boundary import ActiveBoundaryLoss
from .cpg import CPGLoss, cpg_loss
from .criterion import SegmentationCriterion
from .cross_entropy_cpg import CrossEntropyCPGLoss
from .kervadec import KervadecBoundaryLoss
from .lovasz_softmax import LovaszSoftmaxLoss
from .region import DiceLoss, JaccardLoss
from .rmi import RMILoss
from .weighted_sum import WeightedSum

__all__ = [
    "ActiveBoundaryLoss",
    "CPGLoss",
    "CrossEntropyCPGLoss",
    "DiceLoss",
    "JaccardLoss",
    "KervadecBoundaryLoss",
    "LovaszSoftmaxLoss",
    "RMILoss",
    "SegmentationCriterion",
    "WeightedSum",
    "cpg_loss",
]
