"""ADE20K of the scene parsing benchmark in its official layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from cpg_lightning.data.class_info import ClassInfo
from cpg_lightning.data.class_table import official
from cpg_lightning.data.data_module import SegmentationDataModule
from cpg_lightning.data.description import Split
from cpg_lightning.data.paths import IMAGE_SUFFIXES

TABLE = official("ade20k")


class ADE20KDataModule(SegmentationDataModule):
    """ADE20K SceneParsing: 20210 training and 2000 validation photographs, 150 classes.

    ::

        ADEChallengeData2016/   (the root)
            images/{training,validation}/ADE_train_00000001.jpg
            annotations/{training,validation}/ADE_train_00000001.png, values 1..150 and 0 = other objects, ignored

    The root may also be ADEChallengeData2016.zip or its folder. The full ADE20K dataset has another label format and is
    not supported. There is no test split with labels: ``test`` and ``predict`` use the validation images.

    Arguments as in :class:`~cpg_lightning.data.SegmentationDataModule`.

    Source: Zhou et al., "Scene Parsing through ADE20K Dataset", 2017; names and colours of objectName150.mat and
    color150.mat (CSAILVision/sceneparsing).
    """

    classes = ClassInfo(TABLE.names, TABLE.palette, absent_classes="zero")
    label_values, void_values = TABLE.values, TABLE.void
    layout = """\
ADEChallengeData2016/  (the root)
    images/training/ADE_train_00000001.jpg         (also validation/)
    annotations/training/ADE_train_00000001.png
    (or ADEChallengeData2016.zip)"""
    archives: Mapping[str, tuple[str, str]] = {"ADEChallengeData2016.zip": ("ADEChallengeData2016", "")}
    splits = ("train", "val")
    default_test_split = "val"
    official_counts: ClassVar[dict[Split, int]] = {"train": 20210, "val": 2000}

    def files(self, split: Split) -> list[tuple[Path, Path | None]]:
        """See :meth:`SegmentationDataModule.files`."""
        folder = {"train": "training", "val": "validation"}[split]
        images = self.tree.files_by_name(f"images/{folder}", IMAGE_SUFFIXES)
        labels = self.tree.labels(f"annotations/{folder}", (".png",))
        return self.tree.pair_files(images, labels, f"images/{folder}", f"annotations/{folder}")
