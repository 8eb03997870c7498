"""The albumentations pipelines of training and evaluation."""

from typing import Any

import albumentations as A
import cv2
import numpy as np


class RandomScaleCrop(A.DualTransform):
    """Resize to a random multiple of a base size and cut a random window from the result, unpadded.

    Args:
        crop_size: Height and width of the window in pixels; where the resized image is smaller, the window is.
        scale: Smallest and largest multiple, drawn uniformly.
        image_size: Base height and width in pixels; the image's own by default.
        p: Probability of being applied.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale: tuple[float, float] = (1.0, 1.0),
        image_size: tuple[int, int] | None = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.crop_size = crop_size
        self.scale = scale
        self.image_size = image_size

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the size and the window."""
        factor = self.py_random.uniform(*self.scale)
        size = [max(1, round(side * factor)) for side in self.image_size or params["shape"][:2]]
        start = [
            self.py_random.randint(0, max(0, side - crop)) for side, crop in zip(size, self.crop_size, strict=True)
        ]
        window = tuple(slice(first, first + crop) for first, crop in zip(start, self.crop_size, strict=True))
        return {"size": size, "window": window}

    def apply(self, img: np.ndarray, size: list[int], window: tuple[slice, slice], **params: Any) -> np.ndarray:
        """The window of the image, interpolated bilinearly."""
        return cv2.resize(img, size[::-1], interpolation=cv2.INTER_LINEAR)[window]

    def apply_to_mask(
        self, mask: np.ndarray, size: list[int], window: tuple[slice, slice], **params: Any
    ) -> np.ndarray:
        """The window of the mask, by nearest neighbour."""
        return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)[window]


def training_pipeline(
    crop_size: tuple[int, int],
    scale: tuple[float, float],
    image_size: tuple[int, int] | None,
    horizontal_flip: float,
    photometric: bool,
    ignore_index: int,
) -> A.Compose:
    """Random scale and crop, horizontal flip, photometric distortion, then padding at the bottom and the right.

    Arguments as in :class:`~cpg_lightning.data.SegmentationDataModule`. It must be given its random state before each
    use (``set_random_state``): seeding it by ``seed=`` would give all its transforms the same random numbers.
    """
    height, width = crop_size
    # A share of the brightness, contrast and saturation, and a share of the colour circle: those of SSD's training.
    jitter = A.ColorJitter(
        brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.05, 0.05), p=1.0
    )
    padding = A.PadIfNeeded(
        height, width, position="top_left", border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=ignore_index
    )
    transforms: list[A.BasicTransform] = [
        RandomScaleCrop(crop_size, scale, image_size),
        A.HorizontalFlip(p=horizontal_flip),
        *([jitter] if photometric else []),
        padding,  # last, so that padding stays black
    ]
    return A.Compose(transforms)


def evaluation_pipeline(image_size: tuple[int, int] | None) -> A.Compose:
    """Resize images to (height, width) in pixels, bilinearly; nothing without a size. Labels are never given to it."""
    return A.Compose([A.Resize(*image_size, interpolation=cv2.INTER_LINEAR)] if image_size else [])
