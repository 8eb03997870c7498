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
from cpg_lightning.data.paths import IMAGE_SUFFIXES, lines_of, nearest


class PredictionDataset(Dataset[dict[str, Any]], ABC):
    """Images without labels. A subclass knows how many there are and reads them.

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
        """``image``, uint8 (3, H, W), ``name`` and ``size``, int64 (2), height and width before the pipeline; or ``broken``."""
        try:
            return evaluation_sample(self.pipeline, *self.read(index))
        except (OSError, ValueError) as error:
            return {"broken": str(error)}


class FilePredictionDataset(PredictionDataset):
    """Image files to predict.

    Args:
        tree: Reads the files.
        names: Name of each image file.
        decode_image: Turns the content and the path of an image file into pixels, uint8 (H, W, 3) RGB.
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
            ValueError: For a file that cannot be read or has more than ``max_pixels``.
        """
        path = self.images[index]
        image = decoded_file(self.tree, path, self.decode_image, self.max_pixels)
        return image, self.names[path]


def images_at(place: Path, max_pixels: int = MOST_PIXELS) -> tuple[list[Path], Counter[str]]:
    """The images of a folder, at any depth, an image, or the images that a text file lists, one path per line.

    What is there but is no file, such as a link to nothing, is among them: it is an image that cannot be read.

    Returns:
        The images, and how many other files of each suffix the folder has.

    Raises:
        FileNotFoundError: If there is nothing there, or at a listed path.
        ValueError: If there are no images, or the list cannot be read.
    """
    others: Counter[str] = Counter()
    if place.suffix.lower() == ".txt" and place.is_file():
        paths = [Path(line) for line in lines_of(bytes_of(place, max_pixels), place)]
    elif place.is_dir():
        below = FileTree(place, "").below(".", IMAGE_SUFFIXES)
        paths = [path for path in below if path.suffix.lower() in IMAGE_SUFFIXES]
        others.update(path.suffix.lower() for path in below if path.suffix.lower() not in IMAGE_SUFFIXES)
    else:
        paths = [place]
    paths = [Path(os.path.abspath(path)) for path in dict.fromkeys(paths)]
    missing = [path for path in paths if not os.path.lexists(path)]
    if missing:
        raise FileNotFoundError(f"expected images to predict, got no file {missing[0]}, {nearest(missing[0])}")
    if not paths:
        raise ValueError(
            f"expected images ({', '.join(IMAGE_SUFFIXES)}) to predict in {place}, got {counted(others) or 'none'}"
        )
    return paths, others


def counted(suffixes: Counter[str]) -> str:
    """Numbers of files by their suffix, as text.

    Example:
        >>> counted(Counter({".heic": 2, "": 1}))
        '2 .heic, 1 without a suffix'
    """
    return ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in suffixes.most_common())
