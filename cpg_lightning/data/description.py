"""Description of a dataset: its classes, its label values and the files of each split."""

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
    """Description of a dataset; the base class of :class:`~cpg_lightning.data.SegmentationDataModule`.

    A subclass sets the attributes and implements :meth:`files`. It overrides other methods if its files require it.

    Attributes:
        classes: The classes, with the rules of the dataset's official evaluation.
        layout: The folders and files of the dataset as a tree, for error messages.
        label_values: Value of each class in the label files. A value that is in neither ``label_values`` nor
            ``void_values`` is an error.
        void_values: Ignored values in the label files. In predictions, ignored pixels get the first one.
        splits: The splits of the dataset.
        default_test_split: Default of ``test_split``: the validation split if the test labels are not public.
        unknown_hint: Remedy for an unknown label value, appended to its error message.
        archives: Official zip files of the dataset; see :class:`~cpg_lightning.data.files.FileTree`.
        official_counts: Published number of images of each split.
    """

    classes: ClassInfo
    layout: str = ""
    label_values: tuple[int, ...]
    void_values: tuple[int, ...] = ()
    splits: tuple[Split, ...] = ("train", "val", "test")
    default_test_split: Split = "test"
    unknown_hint: str = "is this the dataset of the data module?"
    archives: Mapping[str, tuple[str, str]] = {}
    official_counts: ClassVar[Mapping[Split, int]] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.classes.num_classes

    @abstractmethod
    def files(self, split: Split) -> list[tuple[Path, Path | None]]:
        """List the images of a split: the path of each image and the path of its label, or None without labels, sorted.

        Raises:
            FileNotFoundError: If a folder is missing.
            ValueError: If there are no images, images without labels, or labels without images.
        """

    def label_table(self) -> np.ndarray:
        """Table from each of the 256 values of a label file to a class, 255 (ignored) or ``UNKNOWN``, uint8 (256)."""
        return label_table(self.label_values, self.void_values)

    def to_label_values(self, mask: np.ndarray) -> np.ndarray:
        """Convert classes to the values of the dataset's label files, as benchmark servers expect them.

        Args:
            mask: Classes or 255, integer, any shape.

        Returns:
            uint8, of the same shape. Ignored pixels get the first of ``void_values``.

        Raises:
            ValueError: If an entry is not a class, or if ``mask`` has ignored pixels and ``void_values`` is empty.
        """
        return label_values_of(mask, self.label_values, self.void_values)

    @staticmethod
    def decode_image(data: bytes, path: Path) -> np.ndarray:
        """Decode the content of an image file to uint8 (H, W, 3) RGB in its displayed orientation; ``path`` is for messages."""
        return decode_image(data, path)

    @staticmethod
    def decode_label(data: bytes, path: Path) -> np.ndarray:
        """Decode the content of a label file to label values, uint8 (H, W); ``path`` is for messages."""
        return decode_label(data, path)

    def label_decoder(self) -> Callable[[bytes, Path], np.ndarray]:
        """Return the function that decodes the content and path of a label file; ``decode_label`` by default."""
        return self.decode_label

    def explain_missing_labels(self, split: Split) -> str:
        """Return the likely reason why a split has no labels, as text for an error message; empty by default."""
        return ""

    def suspicions(self, pixels: np.ndarray) -> list[str]:
        """Return messages about signs that the labels of a split have another format than expected; none by default.

        Args:
            pixels: Number of pixels of each label value, int64 (256).
        """
        return []
