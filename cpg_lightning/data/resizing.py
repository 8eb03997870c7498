"""Resizing of images to a size, or to the length of the shorter or the longer side."""

from functools import partial
from typing import Any

import albumentations as A
import cv2
import numpy as np

from cpg_lightning.data.decoding import MOST_PIXELS


def resized_shape(
    shape: tuple[int, int], image_size: int | tuple[int, int] | None, long_side: int | None = None
) -> tuple[float, float]:
    """Height and width of an image after resizing, before rounding.

    Args:
        shape: Height and width of the image in pixels.
        image_size: Height and width in pixels, or the length of the shorter side, which keeps the aspect ratio. None
            keeps the image's size.
        long_side: Length of the longer side in pixels, which keeps the aspect ratio; replaces ``image_size``.

    Example:
        >>> resized_shape((360, 480), 180)
        (180.0, 240.0)
    """
    if long_side is not None:
        factor = long_side / max(shape)
    elif isinstance(image_size, tuple | list):
        return float(image_size[0]), float(image_size[1])
    else:
        factor = 1.0 if image_size is None else image_size / min(shape)
    return shape[0] * factor, shape[1] * factor


def evaluation_pipeline(image_size: int | tuple[int, int] | None, max_pixels: int = MOST_PIXELS) -> A.Compose:
    """The pipeline of evaluation, which resizes the image bilinearly. Labels keep their size and are not passed to it.

    The pipeline raises a ValueError for an image that would have more than ``max_pixels`` pixels after resizing.

    Args:
        image_size: Height and width in pixels, or the length of the shorter side. None keeps each image's size.
        max_pixels: Largest number of pixels after resizing.
    """
    if image_size is None:
        return A.Compose([])
    if isinstance(image_size, int):
        check = A.Lambda(image=partial(_checked, image_size, max_pixels), name="check_size")
        return A.Compose([check, A.SmallestMaxSize(image_size, interpolation=cv2.INTER_LINEAR)])
    return A.Compose([A.Resize(*image_size, interpolation=cv2.INTER_LINEAR)])


def _checked(image_size: int, max_pixels: int, image: np.ndarray, **params: Any) -> np.ndarray:
    """Return the image, or raise a ValueError if it would be too large after resizing."""
    height, width = (round(side) for side in resized_shape((image.shape[0], image.shape[1]), image_size))
    if height * width > max_pixels:
        raise ValueError(
            f"expected at most max_pixels={max_pixels} pixels, got {height}x{width} (height x width), an image of "
            f"{image.shape[0]}x{image.shape[1]} resized to image_size={image_size}"
        )
    return image
