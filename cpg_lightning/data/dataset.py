"""Segmentation datasets: images with labels, read, checked and returned as samples."""

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cpg_lightning.data.class_info import IGNORED
from cpg_lightning.data.class_table import UNKNOWN
from cpg_lightning.data.decoding import MOST_PIXELS, check_size
from cpg_lightning.data.files import FileTree
from cpg_lightning.data.header import read_header
from cpg_lightning.data.sampling import SeededIndex

BETWEEN = 5  # from this number of unknown values, a label probably has interpolated values, not a forgotten class


class SegmentationDataset(Dataset[dict[str, Any]], ABC):
    """Images with labels; a subclass defines their number and reads them.

    In training, the pipeline augments image and label together and converts label values to classes. In evaluation, the
    pipeline gets only the image, and the mask keeps the label's size.

    Args:
        pipeline: Augmentation or resizing of the images.
        training: Whether items are for training.
        label_table: Class, 255 (ignored) or ``UNKNOWN`` for each of the 256 label values, uint8 (256).
    """

    labelled = True  # whether every image has a label
    unknown_hint = ""

    def __init__(self, pipeline: A.Compose, training: bool, label_table: np.ndarray) -> None:
        self.pipeline = pipeline
        self.training = training
        self.label_table = label_table

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """The image, uint8 (H, W, 3) RGB, its label values, uint8 (H, W), or None without a label, and its name."""

    def where(self, index: int) -> str:
        """The place of the label, for messages."""
        return f"label {index}"

    def __getitem__(self, item: int | SeededIndex) -> dict[str, Any]:
        """Return a sample: ``image``, uint8 (3, H, W), ``mask``, uint8 (H, W), and ``name``.

        In evaluation, it also has ``size``, int64 (2): height and width before the pipeline.

        Args:
            item: The index, in training with the seed of the augmentation. Without a seed, the augmentation of an index
                is always the same.

        Raises:
            ValueError: If the image has no label, or a label value is not in the dataset; see also :meth:`read`.
        """
        seeded = item if isinstance(item, SeededIndex) else SeededIndex(item, ())
        image, label, name = self.read(seeded.index)
        if label is None:
            raise ValueError(f"expected an image with a label, got one without: {name}; it can be predicted")
        if self.training:
            sample, mask = self._augmented(seeded, image, label, name)
        else:
            sample, mask = evaluation_sample(self.pipeline, image, name), cv2.LUT(label, self.label_table)
        if (mask == UNKNOWN).any():
            raise ValueError(self.unknown(seeded.index, label))
        return {**sample, "mask": torch.from_numpy(mask)}

    def check_labels(self) -> None:
        """Check that a label has a pixel with a class. Labels are read until one is found, usually the first.

        Raises:
            ValueError: If all pixels of all labels are ignored; see also :meth:`read`.
        """
        for index in range(len(self)):
            _, label, _ = self.read(index)
            # A value that is not in the dataset is another mistake, which __getitem__ reports with the path of the label.
            if label is not None and (cv2.LUT(label, self.label_table) != IGNORED).any():
                return
        raise ValueError(
            f"expected labelled pixels, got none in {len(self)} labels: each pixel has a value that is ignored, e.g. in "
            f"{self.where(0)}; cpg check-data prints the values in a dataset"
        )

    def _augmented(
        self, seeded: SeededIndex, image: np.ndarray, label: np.ndarray, name: str
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Return a training sample without its mask, and the mask."""
        # Each sample has its own random stream, so crops depend neither on the worker nor on the number of workers.
        # The 1 separates the stream from the sampler's, because NumPy pads seeds with zeros.
        generator = np.random.default_rng([*seeded.seed, seeded.index, 1])
        self.pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        crop = self.pipeline(image=image, mask=label)
        return {"name": name, "image": image_tensor(crop["image"])}, np.ascontiguousarray(crop["mask"])

    def unknown(self, index: int, label: np.ndarray) -> str:
        """The error message for a label with values that are not in the dataset."""
        known = np.flatnonzero(self.label_table != UNKNOWN)
        values = np.unique(label)
        wrong = values[self.label_table[values] == UNKNOWN]
        between = "values between the classes come from a JPEG, or from resizing labels as images; " * (
            len(wrong) >= BETWEEN
        )
        return (
            f"expected label values {format_ranges(known)}, got {wrong[:10].tolist()}: {self.where(index)}; "
            f"{between}{self.unknown_hint}"
        )


class FileDataset(SegmentationDataset):
    """Image files with label files.

    Args:
        tree: Reads the files.
        files: Path of each image and of its label; None for an image without a label.
        decode_image: Decodes the content of an image file, given with its path, to uint8 (H, W, 3) RGB.
        decode_label: Decodes the content of a label file, given with its path, to label values, uint8 (H, W).
        unknown_hint: Remedy for an unknown label value, appended to its error message.
        pipeline: See :class:`SegmentationDataset`.
        training: See :class:`SegmentationDataset`.
        label_table: See :class:`SegmentationDataset`.
        max_pixels: Largest number of pixels of an image or a label.
    """

    def __init__(
        self,
        tree: FileTree,
        files: Sequence[tuple[Path, Path | None]],
        decode_image: Callable[[bytes, Path], np.ndarray],
        decode_label: Callable[[bytes, Path], np.ndarray],
        unknown_hint: str,
        pipeline: A.Compose,
        training: bool,
        label_table: np.ndarray,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        super().__init__(pipeline, training, label_table)
        self.max_pixels = max_pixels
        self.tree = tree
        self.files = files
        self.decode_image = decode_image
        self.decode_label = decode_label
        self.unknown_hint = unknown_hint
        self.labelled = all(label is not None for _, label in files)
        self.names = image_names(image for image, _ in files)

    def __len__(self) -> int:
        return len(self.files)

    def where(self, index: int) -> str:
        """The label's path."""
        return str(self.files[index][1])

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """See :meth:`SegmentationDataset.read`.

        Raises:
            ValueError: For a file that cannot be read or has more than ``max_pixels`` pixels, a label that is not an
                8-bit image of one channel or differs in size from its image, and a labelled image or a label with an
                EXIF orientation other than 1.
        """
        image_path, label_path = self.files[index]
        name = self.names[image_path]
        image = decoded_file(self.tree, image_path, self.decode_image, self.max_pixels, label_path is not None)
        if label_path is None:
            return image, None, name
        label = decoded_file(self.tree, label_path, self.decode_label, self.max_pixels, labelled=True)
        if label.shape != image.shape[:2]:
            raise ValueError(
                f"expected the label to have its image's size, {image.shape[0]}x{image.shape[1]} pixels (height x width), "
                f"got {label.shape[0]}x{label.shape[1]}: {label_path} for {image_path}"
            )
        return image, label, name


def decoded_file(
    tree: FileTree,
    path: Path,
    decode: Callable[[bytes, Path], np.ndarray],
    max_pixels: int = MOST_PIXELS,
    labelled: bool = False,
) -> np.ndarray:
    """The pixels of an image file or a label file. The header is checked before decoding.

    Args:
        tree: Reads the file.
        path: The file.
        decode: Decodes the content, given with the path, to pixels.
        max_pixels: Largest number of pixels.
        labelled: Whether the file is a label or an image with a label. It must then be stored in its displayed
            orientation.

    Raises:
        ValueError: For a file that cannot be read, is too large, or has a forbidden EXIF orientation.
    """
    content = tree.read(path)
    header = read_header(content)  # None for formats that only the decoder reads
    check_size(header, path, max_pixels)
    if labelled and header is not None and header.orientation != 1:
        raise ValueError(
            f"expected a labelled image and its label to be stored in their displayed orientation, got EXIF orientation "
            f"{header.orientation}: {path}; if it was labelled as displayed, rotate the pixels; then remove the tag with "
            f"'exiftool -Orientation= {path.name}'"
        )
    return decode(content, path)


def evaluation_sample(pipeline: A.Compose, image: np.ndarray, name: str) -> dict[str, Any]:
    """The evaluation sample of an image: ``name``, ``size`` before resizing, int64 (2), ``image``, uint8 (3, H, W).

    Raises:
        ValueError: If the image would be too large after resizing.
    """
    try:
        resized = pipeline(image=image)["image"]
    except ValueError as error:
        raise ValueError(f"{error}: {name}") from error
    return {"name": name, "size": torch.tensor(image.shape[:2]), "image": image_tensor(resized)}


def image_tensor(image: np.ndarray) -> Tensor:
    """A view of shape (3, H, W) of an image (H, W, 3), which is the channels-last order in memory."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def image_names(images: Iterable[Path]) -> dict[Path, str]:
    """The name of each image file: its stem, or a longer part of its path if two files have the same stem.

    Example:
        >>> list(image_names([Path("a/1.png"), Path("a/2.png")]).values())
        ['1', '2']
        >>> list(image_names([Path("a/1.png"), Path("b/1.png")]).values())
        ['a/1', 'b/1']
    """
    paths = list(dict.fromkeys(images))  # an image may be several samples
    if len({path.stem for path in paths}) == len(paths):
        return {path: path.stem for path in paths}
    folder = os.path.commonpath([path.parent for path in paths])
    suffixes = len({path.with_suffix("") for path in paths}) < len(paths)
    return {path: (path if suffixes else path.with_suffix("")).relative_to(folder).as_posix() for path in paths}


def format_ranges(values: np.ndarray) -> str:
    """Ascending numbers, written as ranges.

    Example:
        >>> format_ranges(np.array([0, 1, 2, 5, 255]))
        '0..2, 5, 255'
    """
    groups = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(group[0]) if len(group) == 1 else f"{group[0]}..{group[-1]}" for group in groups)
