"""Images with labels and predictions, for reports."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from cpg_lightning.metrics.evaluation import ImageScores

LARGEST_SIDE = 1024  # longest side in pixels of a picture that is sent to Weights & Biases


@dataclass
class Example:
    """An image, its label and its prediction, as NumPy arrays of one size, and its scores, or None."""

    name: str
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    scores: ImageScores | None

    @property
    def rank(self) -> float:
        """The boundary IoU as a sort key; infinite without a boundary IoU."""
        return np.inf if self.scores is None or np.isnan(self.scores.boundary_iou) else self.scores.boundary_iou

    @property
    def title(self) -> str:
        """The name with the available scores."""
        named = {} if self.scores is None else {"mIoU": self.scores.mIoU, "boundary IoU": self.scores.boundary_iou}
        return ", ".join([self.name, *(f"{name} {value:.3f}" for name, value in named.items() if not np.isnan(value))])


def example_of(name: str, image: Tensor, label: Tensor, prediction: Tensor, scores: ImageScores | None) -> Example:
    """Build an example from tensors: image (3, h, w), label (H, W), prediction (H, W). The image gets the label's size."""
    mask, classes = (maps.cpu().numpy().astype(np.uint8) for maps in (label, prediction))
    picture = image.permute(1, 2, 0).cpu().numpy()
    picture = cv2.resize(np.ascontiguousarray(picture), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return Example(name, picture, mask, classes, scores)


def logged_masks(example: Example, labels: dict[int, str]) -> dict[str, dict[str, Any]]:
    """Return prediction and label as overlays of Weights & Biases. ``labels`` are the names of the values."""
    maps = {"prediction": example.prediction, "ground_truth": example.label}
    return {name: {"mask_data": shrink(each), "class_labels": labels} for name, each in maps.items()}


def shrink(array: np.ndarray) -> np.ndarray:
    """Shrink an image or a label map to at most ``LARGEST_SIDE`` pixels per side."""
    factor = LARGEST_SIDE / max(array.shape[:2])
    if factor >= 1:
        return array
    interpolation = cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST_EXACT
    height, width = (max(1, round(side * factor)) for side in array.shape[:2])
    return cv2.resize(array, (width, height), interpolation=interpolation)
