"""Images to predict, which have no labels."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
from torch.utils.data import Dataset

from cpg_lightning.data.archive import bytes_of
from cpg_lightning.data.dataset import decoded_file, evaluation_sample
from cpg_lightning.data.decoding import MOST_PIXELS
from cpg_lightning.data.files import FileTree
from cpg_lightning.data.paths import IMAGE_SUFFIXES, describe_missing, lines_of


class PredictionDataset(Dataset[dict[str, Any]], ABC):
    """Images without labels. A subclass defines their number and reads them.

    An image that cannot be read does not stop the prediction of the others: its sample is ``{"broken": message}``.

    Args:
        pipeline: The pipeline of evaluation.
    """

    def __init__(self, pipeline: A.Compose) -> None:
        self.pipeline = pipeline

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> tuple[np.ndarray, str]:
        """The image, uint8 (H, W, 3) RGB, and its name."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return ``image``, uint8 (3, H, W), ``name``, and ``size`` before the pipeline, int64 (2); or only ``broken``."""
        try:
            return evaluation_sample(self.pipeline, *self.read(index))
        except (OSError, ValueError) as error:
            return {"broken": str(error)}


class FilePredictionDataset(PredictionDataset):
    """Image files to predict.

    Args:
        tree: Reads the files.
        names: Name of each image file.
        decode_image: Decodes the content of an image file, given with its path, to uint8 (H, W, 3) RGB.
        pipeline: See :class:`PredictionDataset`.
        max_pixels: Largest number of pixels of an image.
    """

    def __init__(
        self,
        tree: FileTree,
        names: Mapping[Path, str],
        decode_image: Callable[[bytes, Path], np.ndarray],
        pipeline: A.Compose,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        super().__init__(pipeline)
        self.tree = tree
        self.images = list(names)
        self.names = names
        self.decode_image = decode_image
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """See :meth:`PredictionDataset.read`.

        Raises:
            ValueError: If the file cannot be read, or has more than ``max_pixels`` pixels.
        """
        path = self.images[index]
        image = decoded_file(self.tree, path, self.decode_image, self.max_pixels)
        return image, self.names[path]


def list_images(place: Path, max_pixels: int = MOST_PIXELS) -> tuple[list[Path], Counter[str]]:
    """List images: all images below a folder, a single image, or the images in a text file with one path per line.

    A path that exists but is not a file, such as a broken link, is included. It is reported later as unreadable.

    Returns:
        The images, and the number of other files in the folder by suffix.

    Raises:
        FileNotFoundError: If ``place`` or a listed path does not exist.
        ValueError: If there are no images, or the list cannot be read.
    """
    others: Counter[str] = Counter()
    if place.suffix.lower() == ".txt" and place.is_file():
        paths = [Path(line) for line in lines_of(bytes_of(place, max_pixels), place)]
    elif place.is_dir():
        below = FileTree(place, "").list_files(".", IMAGE_SUFFIXES)
        paths = [path for path in below if path.suffix.lower() in IMAGE_SUFFIXES]
        others.update(path.suffix.lower() for path in below if path.suffix.lower() not in IMAGE_SUFFIXES)
    else:
        paths = [place]
    paths = [Path(os.path.abspath(path)) for path in dict.fromkeys(paths)]
    missing = [path for path in paths if not os.path.lexists(path)]
    if missing:
        raise FileNotFoundError(f"expected images to predict at {missing[0]}, {describe_missing(missing[0])}")
    if not paths:
        raise ValueError(
            f"expected images ({', '.join(IMAGE_SUFFIXES)}) to predict in {place}, got {format_counts(others) or 'none'}"
        )
    return paths, others


def format_counts(suffixes: Counter[str]) -> str:
    """Format the number of files of each suffix as text.

    Example:
        >>> format_counts(Counter({".heic": 2, "": 1}))
        '2 .heic, 1 without a suffix'
    """
    return ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in suffixes.most_common())
