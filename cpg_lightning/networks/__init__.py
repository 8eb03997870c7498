"""Segmentation networks: logits at their own stride."""

from cpg_lightning.networks.base import SegmentationNetwork
from cpg_lightning.networks.torchvision import LRASPP, DeepLabV3

__all__ = ["LRASPP", "DeepLabV3", "SegmentationNetwork"]
