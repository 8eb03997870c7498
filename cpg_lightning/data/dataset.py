"""What a dataset of segmentation is: images with labels, read, checked and given as samples."""

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from cpg_lightning.data.class_table import UNKNOWN
from cpg_lightning.data.decoding import MOST_PIXELS, check_size
from cpg_lightning.data.files import FileTree
from cpg_lightning.data.header import read_header
from cpg_lightning.data.sampling import SeededIndex

BETWEEN = 5  # unknown values in a label: more than a class or two that were forgotten


class SegmentationDataset(Dataset[dict[str, Any]], ABC):
    """Images with labels; a subclass knows how many there are and reads them.

    In training an item is augmented by the pipeline, image and label together, which also turns label values into
    classes; in evaluation the pipeline sees the image alone and the mask keeps the label's own size.

    Args:
        pipeline: What is done to an image.
        training: Whether items are for training.
        label_table: The class, ``ignore_index`` or ``UNKNOWN`` for each of the 256 label values, uint8 (256).
    """

    labelled = True  # whether every image has a label
    unknown_hint = ""
    skip_broken = False  # whether an image that cannot be read is a sample that says so, rather than an error

    def __init__(self, pipeline: A.Compose, training: bool, label_table: np.ndarray) -> None:
        self.pipeline = pipeline
        self.training = training
        self.label_table = label_table

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """The image, uint8 (H, W, 3) RGB, its label values, uint8 (H, W), if it has a label, and the image's name."""

    def where(self, index: int) -> str:
        """Where the label is, for messages."""
        return f"label {index}"

    def __getitem__(self, item: int | SeededIndex) -> dict[str, Any]:
        """One image, uint8 (3, H, W), its mask, uint8 (H, W), if it has a label, and its name.

        In evaluation also its ``size``, int64 (2), height and width as they are before the pipeline.

        Args:
            item: The index, in training with the seed of its augmentation, which is otherwise always the same.

        Raises:
            ValueError: For a label value that the dataset does not have; see also :meth:`read`.
        """
        draw = item if isinstance(item, SeededIndex) else SeededIndex(item, ())
        try:
            return self._sample(draw, *self.read(draw.index))
        except (OSError, ValueError) as error:
            if not self.skip_broken:
                raise
            return {"broken": str(error)}

    def _sample(self, draw: SeededIndex, image: np.ndarray, label: np.ndarray | None, name: str) -> dict[str, Any]:
        """What the pipeline makes of an image and its label."""
        sample: dict[str, Any] = {"name": name}
        mask = None
        if self.training:
            # A stream of its own for each sample: the crops depend neither on the worker nor on the number of workers.
            # The 1 keeps it apart from the sampler's: NumPy takes a seed as if zeros followed.
            generator = np.random.default_rng([*draw.seed, draw.index, 1])
            self.pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
            image, mask = self.pipeline(image=image, mask=label).values()
        else:
            sample["size"] = torch.tensor(image.shape[:2])
            try:
                image = self.pipeline(image=image)["image"]
            except ValueError as error:  # too large when resized
                raise ValueError(f"{error}: {name}") from error
            mask = None if label is None else cv2.LUT(label, self.label_table)
        # A view of (H, W, 3), the order that the networks calculate in; the loader keeps it.
        sample["image"] = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if mask is not None:
            if label is not None and (mask == UNKNOWN).any():
                raise ValueError(self.unknown(draw.index, label))
            sample["mask"] = torch.from_numpy(mask)
        return sample

    def unknown(self, index: int, label: np.ndarray) -> str:
        """What is wrong with a label that has values which the dataset does not have."""
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
        tree: What reads the files.
        files: Path of each image with that of its label, if it has one.
        decode_image: An image, uint8 (H, W, 3) RGB, from its file's content and path.
        decode_label: Label values, uint8 (H, W), from a label file's content and path.
        unknown_hint: What to do about an unknown label value.
        pipeline: See :class:`SegmentationDataset`.
        training: See :class:`SegmentationDataset`.
        label_table: See :class:`SegmentationDataset`.
        max_pixels: Pixels that an image or a label may have.
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
        # Names are of files alone, unless that would make two the same; then with their folders, and if need be suffixes.
        images = {image for image, _ in files}  # each once, though it may be several samples
        unique = len({image.stem for image in images}) == len(images)
        self.folder = None if unique else Path(os.path.commonpath([image.parent for image in images]))
        self.suffixes = len({image.with_suffix("") for image in images}) < len(images)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, image: Path) -> str:
        """What an image is called: the stem of its file, and the folders that distinguish it."""
        if self.folder is None:
            return image.stem
        path = image.relative_to(self.folder)
        return (path if self.suffixes else path.with_suffix("")).as_posix()

    def where(self, index: int) -> str:
        """The label's path."""
        return str(self.files[index][1])

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """See :meth:`SegmentationDataset.read`.

        Raises:
            ValueError: For a file that cannot be read or has more than ``max_pixels``, a label that is no 8-bit image of
                one channel or of another size than its image, and a labelled image or a label that is shown turned.
        """
        image_path, label_path = self.files[index]
        name = self.name(image_path)
        image = self._decoded(image_path, self.decode_image, labelled=label_path is not None)
        if label_path is None:
            return image, None, name
        label = self._decoded(label_path, self.decode_label, labelled=True)
        if label.shape != image.shape[:2]:
            raise ValueError(
                f"expected the label to have its image's size, {image.shape[0]}x{image.shape[1]} pixels (height x width), "
                f"got {label.shape[0]}x{label.shape[1]}: {label_path} for {image_path}"
            )
        return image, label, name

    def _decoded(self, path: Path, decode: Callable[[bytes, Path], np.ndarray], labelled: bool) -> np.ndarray:
        """A file's pixels, of which it is checked first how many there are, and whether they are stored as shown."""
        content = self.tree.read(path)
        header = read_header(content)  # None for what only the decoder knows
        check_size(header, path, self.max_pixels)
        if labelled and header is not None and header.orientation != 1:
            raise ValueError(
                f"expected a labelled image, and its label, to be stored as they are shown, got EXIF orientation "
                f"{header.orientation}: {path}; whether it was labelled as stored or as shown only you know: turn the "
                f"pixels if need be, and remove the tag by 'exiftool -Orientation= {path.name}'"
            )
        return decode(content, path)


def format_ranges(values: np.ndarray) -> str:
    """Numbers in ascending order as ranges.

    Example:
        >>> format_ranges(np.array([0, 1, 2, 5, 255]))
        '0..2, 5, 255'
    """
    groups = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(group[0]) if len(group) == 1 else f"{group[0]}..{group[-1]}" for group in groups)
