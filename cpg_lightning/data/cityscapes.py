"""Cityscapes in its official layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from cpg_lightning.data.class_info import ClassInfo
from cpg_lightning.data.class_table import official
from cpg_lightning.data.data_module import SegmentationDataModule
from cpg_lightning.data.description import Split

TABLE = official("cityscapes")
IMAGE, LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"


class CityscapesDataModule(SegmentationDataModule):
    """Cityscapes: 2975 training, 500 validation and 1525 test street photographs of 1024x2048 pixels, 19 classes.

    ::

        root/
            leftImg8bit/{train,val,test}/<city>/<city>_000000_000019_leftImg8bit.png
            gtFine/{train,val,test}/<city>/<city>_000000_000019_gtFine_labelIds.png

    Labels are read from the published labelIds, 0..33, and converted to the benchmark's 19 classes in memory.
    labelTrainIds are not needed. The labels of the test images are dummies and are never read. ``predict`` uses the
    test images by default, and ``test`` uses the validation images.

    The root may also be the folder of leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip.

    Arguments as in :class:`~cpg_lightning.data.SegmentationDataModule`.

    Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", 2016; ids, classes and
    colours of cityscapesscripts/helpers/labels.py.
    """

    classes = ClassInfo(TABLE.names, TABLE.palette, dilation_ratio=0.005)
    label_values, void_values = TABLE.values, TABLE.void
    layout = f"""\
root/
    leftImg8bit/train/<city>/<image>{IMAGE}     (also val/ and test/)
    gtFine/train/<city>/<image>{LABEL}
    (or leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip)"""
    archives: Mapping[str, tuple[str, str]] = {
        "leftImg8bit_trainvaltest.zip": ("leftImg8bit", "leftImg8bit"),
        "gtFine_trainvaltest.zip": ("gtFine", "gtFine"),
    }
    default_test_split = "val"
    official_counts: ClassVar[dict[Split, int]] = {"train": 2975, "val": 500, "test": 1525}

    def suspicions(self, pixels: np.ndarray) -> list[str]:
        """See :meth:`SegmentationDataModule.suspicions`: all values look like train IDs."""
        values = pixels[:255].nonzero()[0]
        if not values.size or values.max() >= self.num_classes:
            return []
        return [
            (
                "all label values are from 0 to 18: these look like train IDs; the labels are read as the published label IDs, "
                "0 to 33, from files named *_gtFine_labelIds.png"
            )
        ]

    def files(self, split: Split) -> list[tuple[Path, Path | None]]:
        """See :meth:`SegmentationDataModule.files`."""
        images = self.tree.files_by_name(f"leftImg8bit/{split}", (IMAGE,))
        if split == "test":  # the labels in gtFine/test are dummies
            return self.tree.unpaired(images, f"leftImg8bit/{split}")
        labels = self.tree.labels(f"gtFine/{split}", (LABEL,))
        return self.tree.pair_files(images, labels, f"leftImg8bit/{split}", f"gtFine/{split}")
