"""Segmentation networks, which give logits at their own stride."""

from cpg_lightning.networks.adapter import Adapter
from cpg_lightning.networks.base import SegmentationNetwork
from cpg_lightning.networks.hrnet_ocr import HRNetOCR
from cpg_lightning.networks.huggingface import HuggingFace
from cpg_lightning.networks.smp import SMP, EfficientNetLite0DeepLabV3Plus
from cpg_lightning.networks.torchvision import LRASPP, DeepLabV3

__all__ = [
    "LRASPP",
    "SMP",
    "Adapter",
    "DeepLabV3",
    "EfficientNetLite0DeepLabV3Plus",
    "HRNetOCR",
    "HuggingFace",
    "SegmentationNetwork",
]
