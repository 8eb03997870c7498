"""Augmentation of training images and their labels."""

from typing import Any, Literal

import albumentations as A
import cv2
import numpy as np

from cpg_lightning.data.class_info import IGNORED
from cpg_lightning.data.options import check_sides, check_whole, is_number, is_scale
from cpg_lightning.data.photometric import PhotometricDistortion
from cpg_lightning.data.resizing import resized_shape

CROP_TRIES = 10  # as in mmsegmentation


class Augmentation:
    """Random scale and crop, photometric distortion and horizontal flip of training images.

    The steps, in this order:

    1. The image is resized to a random scale, and a random window of ``crop_size`` is cut from it.
    2. The colours are distorted (:meth:`distortions`).
    3. A crop that is smaller than ``crop_size`` is padded at the bottom and the right, the image with black and the mask with
       the ignored value.
    4. The crop is flipped horizontally at random.

    A subclass of your own adds arguments in its constructor and overrides :meth:`distortions`, or :meth:`pipeline` for
    everything. On the command line it is ``--data.augmentation my_package.MyAugmentation``.

    Args:
        crop_size: Height and width of training images in pixels.
        scale: Smallest and largest random scale. A scale is drawn uniformly.
        scale_step: Distance between the scales that are drawn, starting with the smallest; any scale between by default.
        long_side: Length in pixels of the longer side of an image at scale 1. By default, the data module's ``image_size``
            determines the size at scale 1.
        horizontal_flip: Probability of a horizontal flip.
        photometric: Whether brightness, contrast, saturation and hue are distorted, all four in each image. ``mmseg`` applies
            mmsegmentation's :class:`~cpg_lightning.data.photometric.PhotometricDistortion`, each step at random.
        max_class_share: Largest share of one class in the labelled pixels of a crop. Up to 10 crops are drawn. The first
            crop below this share is used, or else the last one. A value below 1, such as 0.75, balances the classes.

    Raises:
        ValueError: For numbers out of range.

    Example:
        >>> class BlurredAugmentation(Augmentation):
        ...     def __init__(self, crop_size: tuple[int, int], blur: float = 0.1) -> None:
        ...         super().__init__(crop_size)
        ...         self.blur = blur
        ...
        ...     def distortions(self) -> list[A.BasicTransform]:
        ...         return [A.GaussianBlur(p=self.blur), *super().distortions()]
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        scale_step: float | None = None,
        long_side: int | None = None,
        horizontal_flip: float = 0.5,
        photometric: bool | Literal["mmseg"] = False,
        max_class_share: float = 1.0,
    ) -> None:
        check_sides("crop_size", crop_size)
        if (
            not isinstance(scale, tuple | list)
            or len(scale) != 2
            or not all(map(is_scale, scale))
            or scale[0] > scale[1]
        ):
            raise ValueError(f"expected scale to be two positive numbers, the smaller one first, got {scale}")
        if scale_step is not None and not (is_scale(scale_step) and _number_of_steps(scale, scale_step)):
            raise ValueError(
                f"expected scale_step to be positive and to fit between the scales {scale}, got {scale_step}"
            )
        if long_side is not None:
            check_whole("long_side", long_side, 1)
        if not is_number(horizontal_flip) or not 0 <= horizontal_flip <= 1:
            raise ValueError(f"expected horizontal_flip to be a probability, got {horizontal_flip}")
        if photometric not in (True, False, "mmseg"):
            raise ValueError(f"expected photometric to be true, false or mmseg, got {photometric!r}")
        if not is_number(max_class_share) or not 0 < max_class_share <= 1:
            raise ValueError(f"expected max_class_share to be above 0 and at most 1, got {max_class_share}")
        self.crop_size = crop_size
        self.scale = scale
        self.scale_step = scale_step
        self.long_side = long_side
        self.horizontal_flip = horizontal_flip
        self.photometric = photometric
        self.max_class_share = max_class_share

    def pipeline(self, label_table: np.ndarray, image_size: int | tuple[int, int] | None = None) -> A.Compose:
        """Build the pipeline from an image and its label values to a crop of ``crop_size`` and its classes.

        Set its random state before each use (``set_random_state``). Do not seed it with ``seed=``: all its transforms would
        get the same random numbers.

        Args:
            label_table: Class of each of the 256 label values, uint8 (256).
            image_size: Height and width of an image at scale 1 in pixels, or its shorter side; the image's own size by
                default. It is not used with ``long_side``.
        """
        padding = A.PadIfNeeded(
            *self.crop_size, position="top_left", border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=IGNORED
        )
        return A.Compose(
            [
                RandomScaleCrop(self, label_table, image_size),
                *self.distortions(),
                padding,  # after the distortions, so that it stays black
                A.HorizontalFlip(p=self.horizontal_flip),
            ]
        )

    def distortions(self) -> list[A.BasicTransform]:
        """Return the transforms between cropping and padding. Their masks contain classes."""
        if not self.photometric:
            return []
        if self.photometric == "mmseg":
            return [PhotometricDistortion()]
        # Factors of brightness, contrast and saturation, and a fraction of the colour circle, as in the training of SSD.
        return [
            A.ColorJitter(
                brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.05, 0.05), p=1.0
            )
        ]


class RandomScaleCrop(A.DualTransform):
    """Resizes an image to a random scale and cuts a random window from it, without padding. Label values become classes.

    The window is drawn first, and only this part of the image is resized::

        image                                 resized image, which is never computed
        +--------------------------------+    +-----------------------+
        |                                |    |                       |
        |     window                     |    |     crop              |
        |     +----------------+         |    |     +---------+       |
        |     |                |         |    |     |         |       |
        |     |                | ------ resize ---> |         |       |
        |     +----------------+         |    |     +---------+       |
        |      crop size / factor        |    |      crop size        |
        |                                |    |                       |
        +--------------------------------+    +-----------------------+

    The result is the same as that of resizing the whole image first, except that the window begins and ends at whole pixels
    of the image: the scale differs by up to 0.2 % for a crop of 512 pixels. Only the labels in the window are mapped to
    classes.

    Args:
        augmentation: The crop size, the scales and the largest share of a class.
        label_table: See :meth:`Augmentation.pipeline`.
        image_size: See :meth:`Augmentation.pipeline`.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        label_table: np.ndarray,
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__(p=1.0)
        self.crop_size = augmentation.crop_size
        self.scale = augmentation.scale
        self.scale_step = augmentation.scale_step
        self.long_side = augmentation.long_side
        self.max_class_share = augmentation.max_class_share
        self.label_table = label_table
        self.image_size = image_size

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the scale and the window."""
        shape = params["shape"][:2]
        factor = self._draw_scale()
        sides = [max(1, round(side * factor)) for side in resized_shape(shape, self.image_size, self.long_side)]
        size = tuple(min(crop, side) for crop, side in zip(self.crop_size, sides, strict=True))
        # Height and width of the window in the image itself.
        extent = [max(1, round(out * own / side)) for out, own, side in zip(size, shape, sides, strict=True)]
        for _ in range(CROP_TRIES if self.max_class_share < 1 else 1):
            start = [self.py_random.randint(0, own - length) for own, length in zip(shape, extent, strict=True)]
            window = tuple(slice(first, first + length) for first, length in zip(start, extent, strict=True))
            if self.max_class_share == 1 or self._largest_share(data["mask"][window]) < self.max_class_share:
                break
        return {"size": size, "window": window}

    def apply(self, img: np.ndarray, size: tuple[int, int], window: tuple[slice, slice], **params: Any) -> np.ndarray:
        """Return the crop of the image, interpolated bilinearly."""
        return cv2.resize(img[window], size[::-1], interpolation=cv2.INTER_LINEAR)

    def apply_to_mask(
        self, mask: np.ndarray, size: tuple[int, int], window: tuple[slice, slice], **params: Any
    ) -> np.ndarray:
        """Return the classes of the crop, interpolated by nearest neighbour."""
        return cv2.LUT(cv2.resize(mask[window], size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), self.label_table)

    def _draw_scale(self) -> float:
        if self.scale_step is None:
            return self.py_random.uniform(*self.scale)
        steps = _number_of_steps(self.scale, self.scale_step)
        return self.scale[0] + self.scale_step * self.py_random.randint(0, steps)

    def _largest_share(self, labels: np.ndarray) -> float:
        """Share of the most frequent class in the labelled pixels; 1 if no pixel is labelled."""
        values = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()
        classes = np.bincount(self.label_table, weights=values, minlength=256)
        classes[IGNORED] = 0
        return float(classes.max() / max(1, classes.sum())) if classes.any() else 1.0


def _number_of_steps(scale: tuple[float, float], scale_step: float) -> int:
    """Number of steps between the smallest and the largest scale."""
    return int((scale[1] - scale[0]) / scale_step + 1e-6)
