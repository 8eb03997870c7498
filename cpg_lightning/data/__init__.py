"""Datasets and data modules of semantic segmentation."""

import os

# Importing albumentations asks the network for a newer version unless told not to, so this comes before it.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from cpg_lightning.data.ade20k import ADE20KDataModule
from cpg_lightning.data.augmentation import Augmentation
from cpg_lightning.data.camvid import CamVidDataModule
from cpg_lightning.data.cityscapes import CityscapesDataModule
from cpg_lightning.data.class_info import ClassInfo
from cpg_lightning.data.coco_stuff import COCOStuff10kDataModule, COCOStuffDataModule
from cpg_lightning.data.data_module import SegmentationDataModule
from cpg_lightning.data.dataset import SegmentationDataset
from cpg_lightning.data.folder import FolderDataModule
from cpg_lightning.data.shapes import ShapesDataModule

__all__ = [
    "ADE20KDataModule",
    "Augmentation",
    "COCOStuff10kDataModule",
    "COCOStuffDataModule",
    "CamVidDataModule",
    "CityscapesDataModule",
    "ClassInfo",
    "FolderDataModule",
    "SegmentationDataModule",
    "SegmentationDataset",
    "ShapesDataModule",
]
