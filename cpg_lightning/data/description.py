"""What a dataset states about itself: its classes, its label values and the files of each split."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cpg_lightning.data.class_info import ClassInfo
from cpg_lightning.data.class_table import label_table, label_values_of
from cpg_lightning.data.decoding import decode_image, decode_label

Split = Literal["train", "val", "test"]


class DatasetDescription(ABC):
    """What a dataset states about itself; the base of :class:`~cpg_lightning.data.SegmentationDataModule`.

    A subclass sets the attributes and lists its files. It overrides the other methods where its files need it.

    Attributes:
        classes: The classes, and how the dataset's official evaluation scores them.
        layout: The dataset's folders and files, drawn as a tree, for error messages.
        label_values: The value in the label files of each class; every other value but the void ones is an error.
        void_values: Values in the label files that are ignored; the first is what ignored pixels are written as.
        splits: The splits that there are.
        default_test_split: The default of ``test_split``: the validation split, where test labels are not public.
        unknown_hint: What to do about an unknown label value, for its message.
        archives: The dataset's official zip files; see :class:`~cpg_lightning.data.files.FileTree`.
        official_counts: Number of images of each split as published.
    """

    classes: ClassInfo
    layout: str = ""
    label_values: tuple[int, ...]
    void_values: tuple[int, ...] = ()
    splits: tuple[Split, ...] = ("train", "val", "test")
    default_test_split: Split = "test"
    unknown_hint: str = "is this the dataset that the data module is for?"
    archives: Mapping[str, tuple[str, str]] = {}
    official_counts: ClassVar[Mapping[Split, int]] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.classes.num_classes

    @abstractmethod
    def files(self, split: Split) -> list[tuple[Path, Path | None]]:
        """Path of each image of a split with that of its label, if the split has labels, sorted.

        Raises:
            FileNotFoundError: If a folder is missing.
            ValueError: If it holds no images, images without labels or labels without images, or there is no such split.
        """

    def label_table(self) -> np.ndarray:
        """The class, 255 (ignored) or ``UNKNOWN`` for each of the 256 values of a label file, uint8 (256)."""
        return label_table(self.label_values, self.void_values)

    def to_label_values(self, mask: np.ndarray) -> np.ndarray:
        """Classes as the values of the dataset's label files, as a benchmark's server expects them.

        Args:
            mask: Classes or 255, integer, any shape.

        Returns:
            uint8, of the same shape; ignored pixels as the first of ``void_values``.

        Raises:
            ValueError: For an entry that is no class, and for ignored pixels where the dataset has no value for them.
        """
        return label_values_of(mask, self.label_values, self.void_values)

    @staticmethod
    def decode_image(data: bytes, path: Path) -> np.ndarray:
        """An image, uint8 (H, W, 3) RGB, as it is shown, from its file's content; ``path`` is for messages."""
        return decode_image(data, path)

    @staticmethod
    def decode_label(data: bytes, path: Path) -> np.ndarray:
        """Label values, uint8 (H, W), of a label file's content; ``path`` is for messages."""
        return decode_label(data, path)

    def label_decoder(self) -> Callable[[bytes, Path], np.ndarray]:
        """What turns a label file's content and path into label values: ``decode_label``, unless it needs to know more."""
        return self.decode_label

    def why_no_labels(self, split: Split) -> str:
        """What there is in place of the labels of a split that has none, and a likely cause, where it can be said."""
        return ""

    def suspicions(self, pixels: np.ndarray) -> list[str]:
        """What in the labels of a split looks as if they were of another kind than the dataset's; none by default.

        Args:
            pixels: Pixels of each label value, int64 (256).
        """
        return []
