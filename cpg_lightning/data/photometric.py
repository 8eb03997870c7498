"""mmsegmentation's photometric distortion of training images."""

from typing import Any

import albumentations as A
import cv2
import numpy as np

BRIGHTNESS = 32  # grey levels
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18  # 180 is the whole colour circle
LEVELS = np.arange(256, dtype=np.float32)


class PhotometricDistortion(A.ImageOnlyTransform):
    """``PhotoMetricDistortion`` of mmsegmentation: four steps, each with a probability of 0.5.

    1. Brightness: a number between -32 and 32 is added to all channels.
    2. Contrast: all channels are multiplied by a number between 0.5 and 1.5. With a probability of 0.5, this step comes last.
    3. Saturation: the saturation in HSV is multiplied by a number between 0.5 and 1.5.
    4. Hue: an integer from -18 to 17 is added to the hue in HSV, whose whole circle is 180.

    As in mmsegmentation, the channels are clipped to 0..255 and truncated to integers after each step. Images are uint8 RGB.

    Source: ``mmseg/datasets/transforms/transforms.py`` of mmsegmentation 1.2.2.
    """

    def __init__(self) -> None:
        super().__init__(p=1.0)

    def get_params(self) -> dict[str, Any]:
        """Draw the parameters of the steps. None skips a step."""
        draw = self.py_random

        def at_random(value: float) -> float | None:
            return value if draw.random() < 0.5 else None

        return {
            "brightness": at_random(draw.uniform(-BRIGHTNESS, BRIGHTNESS)),
            "contrast": at_random(draw.uniform(*CONTRAST)),
            "contrast_first": draw.random() < 0.5,
            "saturation": at_random(draw.uniform(*SATURATION)),
            "hue": at_random(draw.randrange(-HUE, HUE)),
        }

    def apply(
        self,
        img: np.ndarray,
        brightness: float | None,
        contrast: float | None,
        contrast_first: bool,
        saturation: float | None,
        hue: int | None,
        **params: Any,
    ) -> np.ndarray:
        """Return the distorted image."""
        if brightness is not None:
            img = cv2.LUT(img, _table(1, brightness))
        if contrast is not None and contrast_first:
            img = cv2.LUT(img, _table(contrast))
        # As in mmsegmentation, the image is converted to RGB between the steps in HSV, which rounds.
        if saturation is not None:
            img = _in_hsv(img, 1, _table(saturation))
        if hue is not None:
            img = _in_hsv(img, 0, ((LEVELS.astype(int) + hue) % 180).astype(np.uint8))
        if contrast is not None and not contrast_first:
            img = cv2.LUT(img, _table(contrast))
        return img


def _table(factor: float, added: float = 0) -> np.ndarray:
    """Return a look-up table for the 256 levels."""
    return np.clip(LEVELS * factor + added, 0, 255).astype(np.uint8)


def _in_hsv(img: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    """Apply a look-up table to one HSV channel of an RGB image."""
    hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
    hsv[..., channel] = cv2.LUT(hsv[..., channel], table)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
