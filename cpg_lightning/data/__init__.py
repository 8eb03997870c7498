"""Datasets and data modules of semantic segmentation."""

from cpg_lightning.data.base import SegmentationDataModule, SegmentationDataset
from cpg_lightning.data.camvid import CamVidDataModule
from cpg_lightning.data.shapes import ShapesDataModule

__all__ = ["CamVidDataModule", "SegmentationDataModule", "SegmentationDataset", "ShapesDataModule"]
