"""Losses of semantic segmentation, in plain torch."""

from cpg_lightning.losses.base import SegmentationCriterion
from cpg_lightning.losses.cpg import CPGLoss, cpg_loss
from cpg_lightning.losses.cross_entropy_cpg import CrossEntropyCPGLoss

__all__ = ["CPGLoss", "CrossEntropyCPGLoss", "SegmentationCriterion", "cpg_loss"]
