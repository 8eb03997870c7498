"""The albumentations pipelines of training and evaluation."""

from functools import partial
from typing import Any

import albumentations as A
import cv2
import numpy as np

from cpg_lightning.data.decoding import MOST_PIXELS

CROP_TRIES = 10  # for a window in which no class has more than its share, as in mmsegmentation


class RandomScaleCrop(A.DualTransform):
    """Resize to a random multiple of a base size and cut a random window from the result, unpadded; classes for labels.

    The window is drawn first, and only what it covers of the image is resized: the same up to a pixel of the image
    (0.2 % of the scale for a window of 512 pixels), for a fraction of the work. Likewise for the labels, of which
    only the window's are looked up in the table.

    Args:
        crop_size: Height and width of the window in pixels; where the resized image is smaller, the window is.
        label_table: The class for each of the 256 label values, uint8 (256).
        scale: Smallest and largest multiple, drawn uniformly.
        scale_step: Distance of the multiples that are drawn, beginning with the smallest; any between by default.
        image_size: Base height and width in pixels, or the shorter side; the image's own by default.
        long_side: The longer side in pixels instead.
        max_class_share: Share of the window's labelled pixels that its largest class should not exceed: of 10 windows,
            the first for which it does not, or the last.
        ignore_index: Class that is none, for that share.
        p: Probability of being applied.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        label_table: np.ndarray,
        scale: tuple[float, float] = (1.0, 1.0),
        scale_step: float | None = None,
        image_size: int | tuple[int, int] | None = None,
        long_side: int | None = None,
        max_class_share: float = 1.0,
        ignore_index: int = 255,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.crop_size = crop_size
        self.label_table = label_table
        self.scale = scale
        self.scale_step = scale_step
        self.image_size = image_size
        self.long_side = long_side
        self.max_class_share = max_class_share
        self.ignore_index = ignore_index

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the scale and the window."""
        shape = params["shape"][:2]
        base = resized(shape, None if self.long_side else self.image_size, self.long_side)
        factor = self._scale()
        sides = [max(1, round(side * factor)) for side in base]
        size = tuple(min(crop, side) for crop, side in zip(self.crop_size, sides, strict=True))
        # What the window covers of the image itself.
        cover = [max(1, round(out * own / side)) for out, own, side in zip(size, shape, sides, strict=True)]
        for _ in range(CROP_TRIES if self.max_class_share < 1 else 1):
            first = [self.py_random.randint(0, own - covered) for own, covered in zip(shape, cover, strict=True)]
            window = tuple(slice(start, start + covered) for start, covered in zip(first, cover, strict=True))
            if self.max_class_share == 1 or self._largest_share(data["mask"][window]) < self.max_class_share:
                break
        return {"size": size, "window": window}

    def apply(self, img: np.ndarray, size: tuple[int, int], window: tuple[slice, slice], **params: Any) -> np.ndarray:
        """The window of the image, interpolated bilinearly."""
        return cv2.resize(img[window], size[::-1], interpolation=cv2.INTER_LINEAR)

    def apply_to_mask(
        self, mask: np.ndarray, size: tuple[int, int], window: tuple[slice, slice], **params: Any
    ) -> np.ndarray:
        """The classes of the window of the labels, by nearest neighbour."""
        return cv2.LUT(cv2.resize(mask[window], size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), self.label_table)

    def _scale(self) -> float:
        if self.scale_step is None:
            return self.py_random.uniform(*self.scale)
        return self.scale[0] + self.scale_step * self.py_random.randint(0, steps(self.scale, self.scale_step))

    def _largest_share(self, labels: np.ndarray) -> float:
        """Share of the largest class in the labelled pixels; 1 if no pixel is labelled."""
        values = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()
        classes = np.bincount(self.label_table, weights=values, minlength=256)
        classes[self.ignore_index] = 0
        return float(classes.max() / max(1, classes.sum())) if classes.any() else 1.0


def steps(scale: tuple[float, float], scale_step: float) -> int:
    """How many times a step goes into a range of scales."""
    return int((scale[1] - scale[0]) / scale_step + 1e-6)


def resized(
    shape: tuple[int, int], image_size: int | tuple[int, int] | None, long_side: int | None = None
) -> tuple[float, float]:
    """The height and width that an image is resized to, before rounding: to a size, or with its shape kept."""
    if isinstance(image_size, tuple | list):
        return float(image_size[0]), float(image_size[1])
    factor = 1.0 if image_size is None else image_size / min(shape)
    if long_side is not None:
        factor = long_side / max(shape)
    return shape[0] * factor, shape[1] * factor


def training_pipeline(
    crop: RandomScaleCrop, horizontal_flip: float = 0.5, photometric: bool = False, ignore_index: int = 255
) -> A.Compose:
    """Random scale and crop, photometric distortion, padding at the bottom and the right, then horizontal flip.

    Arguments as in :class:`~cpg_lightning.data.SegmentationDataModule`. It must be given its random state before each
    use (``set_random_state``): seeding it by ``seed=`` would give all its transforms the same random numbers.
    """
    height, width = crop.crop_size
    # A share of the brightness, contrast and saturation, and a share of the colour circle: those of SSD's training.
    jitter = A.ColorJitter(
        brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.05, 0.05), p=1.0
    )
    padding = A.PadIfNeeded(
        height, width, position="top_left", border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=ignore_index
    )
    transforms: list[A.BasicTransform] = [
        crop,
        *([jitter] if photometric else []),
        padding,  # after the colours, so that it stays black
        A.HorizontalFlip(p=horizontal_flip),
    ]
    return A.Compose(transforms)


def evaluation_pipeline(image_size: int | tuple[int, int] | None, max_pixels: int = MOST_PIXELS) -> A.Compose:
    """Resize images to (height, width) in pixels or to a shorter side, bilinearly. Labels are never given to it.

    It raises a ValueError for an image that would have more than ``max_pixels`` then.
    """
    if image_size is None:
        return A.Compose([])
    if isinstance(image_size, int):
        within = A.Lambda(image=partial(_within, image_size, max_pixels), name="within")
        return A.Compose([within, A.SmallestMaxSize(image_size, interpolation=cv2.INTER_LINEAR)])
    return A.Compose([A.Resize(*image_size, interpolation=cv2.INTER_LINEAR)])


def _within(image_size: int, max_pixels: int, image: np.ndarray, **params: Any) -> np.ndarray:
    """An image as it is, unless it would be too large when resized."""
    height, width = (round(side) for side in resized((image.shape[0], image.shape[1]), image_size))
    if height * width > max_pixels:
        raise ValueError(
            f"expected at most max_pixels={max_pixels} pixels, got {height}x{width} (height x width), an image of "
            f"{image.shape[0]}x{image.shape[1]} resized to image_size={image_size}"
        )
    return image
