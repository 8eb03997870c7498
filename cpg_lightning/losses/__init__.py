"""Losses of semantic segmentation, in plain torch."""

from .cpg import CPGLoss, cpg_loss
from .criterion import SegmentationCriterion
from .cross_entropy_cpg import CrossEntropyCPGLoss

__all__ = ["CPGLoss", "CrossEntropyCPGLoss", "SegmentationCriterion", "cpg_loss"]
