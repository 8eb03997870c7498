"""Shapes: a dataset of drawn images, which needs no files."""

from pathlib import Path

import albumentations as A
import cv2
import numpy as np

from cpg_lightning.data.augmentation import Augmentation
from cpg_lightning.data.class_info import ClassInfo
from cpg_lightning.data.data_module import SegmentationDataModule
from cpg_lightning.data.dataset import SegmentationDataset
from cpg_lightning.data.decoding import MOST_PIXELS
from cpg_lightning.data.description import Split
from cpg_lightning.data.options import check_area, check_sides, check_whole
from cpg_lightning.data.prediction import PredictionDataset


class ShapesDataset(SegmentationDataset):
    """Bars, discs and polygons on a textured background, with noise. Each class has a typical colour.

    An image depends only on the split and its index. Edges are not smoothed, so the labels are exact.

    Args:
        split: The split; each split has different images.
        length: Number of images.
        size: Height and width in pixels.
        pipeline: See :class:`SegmentationDataset`.
        training: See :class:`SegmentationDataset`.
    """

    def __init__(self, split: Split, length: int, size: tuple[int, int], pipeline: A.Compose, training: bool) -> None:
        super().__init__(pipeline, training, np.arange(256, dtype=np.uint8))
        self.split: Split = split
        self.length = length
        self.size = size

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """See :meth:`SegmentationDataset.read`."""
        rng = np.random.default_rng([("train", "val", "test").index(self.split), index])
        image = _texture(rng, self.size, rng.uniform(90, 165) + rng.uniform(-15, 15, 3))
        mask = np.zeros(self.size, dtype=np.uint8)
        for _ in range(rng.integers(3, 6)):
            label = int(rng.integers(1, 4))
            outline = (_bar, _disc, _polygon)[label - 1](rng, self.size)
            inside = cv2.fillPoly(np.zeros(self.size, dtype=np.uint8), [np.round(outline).astype(np.int32)], 1) == 1
            colour = np.array(ShapesDataModule.classes.palette[label]) + rng.uniform(-50, 50, 3)
            image[inside] = _texture(rng, self.size, colour)[inside]
            mask[inside] = label
        noisy = image + rng.normal(0, 6, image.shape)
        return noisy.round().clip(0, 255).astype(np.uint8), mask, f"shapes-{self.split}-{index:05d}"


class ShapesPredictionDataset(PredictionDataset):
    """The drawn images of a split, without their labels.

    Args:
        drawn: The images.
    """

    def __init__(self, drawn: ShapesDataset) -> None:
        super().__init__(drawn.pipeline)
        self.drawn = drawn

    def __len__(self) -> int:
        return len(self.drawn)

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """See :meth:`PredictionDataset.read`."""
        image, _, name = self.drawn.read(index)
        return image, name


class ShapesDataModule(SegmentationDataModule):
    """Drawn images of bars, discs and polygons, for a first training without a dataset.

    Args:
        size: Height and width of the images in pixels.
        train_images: Number of training images.
        val_images: Number of validation images, and of test images.
        augmentation: See :class:`~cpg_lightning.data.SegmentationDataModule`; by default the images are only flipped.
        batch_size: As in :class:`~cpg_lightning.data.SegmentationDataModule`, like all following arguments.
        eval_batch_size: Images of one batch of each process in evaluation.
        num_workers: Worker processes per training process.
        test_split: Split for ``test``.
        predict_split: Split for ``predict``.
        predict_images: Images for ``predict`` instead of a split.
        max_pixels: Largest number of pixels of an image.

    Example:
        >>> data = ShapesDataModule(train_images=16, batch_size=4, num_workers=0)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, batch["mask"].shape
        (torch.Size([4, 3, 128, 128]), torch.Size([4, 128, 128]))
    """

    classes = ClassInfo(
        ("background", "bar", "disc", "polygon"), ((70, 70, 80), (240, 170, 50), (60, 160, 220), (220, 80, 110))
    )
    label_values = (0, 1, 2, 3)

    def __init__(
        self,
        size: tuple[int, int] = (128, 128),
        train_images: int = 512,
        val_images: int = 64,
        augmentation: Augmentation | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int | None = None,
        test_split: Split | None = None,
        predict_split: Split | None = None,
        predict_images: str | None = None,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        check_sides("size", size)
        check_area("size", size, max_pixels)
        super().__init__(
            root=".",
            augmentation=augmentation or Augmentation(size, scale=(1.0, 1.0)),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            test_split=test_split,
            predict_split=predict_split,
            predict_images=predict_images,
            max_pixels=max_pixels,
        )
        check_whole("train_images", train_images, 1)
        check_whole("val_images", val_images, 1)
        self.size = size
        self.train_images = train_images
        self.val_images = val_images

    def files(self, split: Split) -> list[tuple[Path, Path | None]]:
        """No files, because the images are drawn."""
        return []

    def dataset(self, split: Split, training: bool) -> ShapesDataset:
        """The dataset of a split for training or for evaluation."""
        length = self.train_images if split == "train" else self.val_images
        return ShapesDataset(split, length, self.size, self.pipeline(training), training)

    def prediction_dataset(self, split: Split) -> PredictionDataset:
        """The images to predict: ``predict_images``, or the drawn images of a split."""
        if self.predict_images is not None:
            return super().prediction_dataset(split)
        return ShapesPredictionDataset(self.dataset(split, training=False))


def _texture(rng: np.random.Generator, size: tuple[int, int], colour: np.ndarray) -> np.ndarray:
    """An area of one colour with random stripes, float (H, W, 3)."""
    y, x = np.mgrid[: size[0], : size[1]]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
    stripes = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + rng.uniform(0, 2 * np.pi))
    return colour + stripes[..., None] * rng.uniform(-25, 25, 3)


def _bar(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Corners (x, y) of a long rectangle at any angle."""
    length, width = min(size) * rng.uniform(0.5, 1.0), min(size) * rng.uniform(0.1, 0.16)
    angle = rng.uniform(0, np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    outline: np.ndarray = _centre(rng, size) + corners[:, :1] * length * along + corners[:, 1:] * width * across
    return outline


def _disc(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Points (x, y) on a circle."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return _centre(rng, size) + _circle(angles, min(size) * rng.uniform(0.1, 0.24))


def _polygon(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Corners (x, y) of a nearly regular triangle, quadrilateral or pentagon."""
    corners = int(rng.integers(3, 6))
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(corners) + rng.uniform(-0.15, 0.15, corners)) / corners
    return _centre(rng, size) + _circle(angles, min(size) * rng.uniform(0.18, 0.3))


def _circle(angles: np.ndarray, radius: float) -> np.ndarray:
    """Points (x, y) at these angles around the origin."""
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _centre(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A point (x, y) in the middle 80 % of the image."""
    return np.array([size[1], size[0]]) * rng.uniform(0.1, 0.9, 2)
