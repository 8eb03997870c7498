"""Boundary-aware segmentation with the CPG loss, in PyTorch Lightning."""

from importlib.metadata import version

from cpg_lightning.losses import CPGLoss, CrossEntropyCPGLoss, cpg_loss

__version__ = version("cpg_lightning")
__all__ = ["CPGLoss", "CrossEntropyCPGLoss", "__version__", "cpg_loss"]
