"""Images with their labels and predictions, kept to be shown."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from torch import Tensor

LARGEST_SIDE = 1024  # of a picture sent to Weights & Biases, in pixels


@dataclass
class Example:
    """An image with its label and prediction, as NumPy arrays of one size, and its boundary IoU."""

    name: str
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    boundary_iou: float


def example_of(name: str, image: Tensor, label: Tensor, prediction: Tensor, boundary_iou: float) -> Example:
    """An example of tensors: image (3, H, W), label (H, W) and prediction (H, W), at the label's size."""
    mask, classes = (maps.cpu().numpy().astype(np.uint8) for maps in (label, prediction))
    picture = image.permute(1, 2, 0).cpu().numpy()
    picture = cv2.resize(np.ascontiguousarray(picture), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return Example(name, picture, mask, classes, boundary_iou)


def logged_masks(example: Example, labels: dict[int, str]) -> dict[str, dict[str, Any]]:
    """Prediction and label as Weights & Biases shows them over an image; ``labels`` are the names of their values."""
    maps = {"prediction": example.prediction, "ground_truth": example.label}
    return {name: {"mask_data": shrunk(each), "class_labels": labels} for name, each in maps.items()}


def shrunk(array: np.ndarray) -> np.ndarray:
    """An image or a map of classes with no side over ``LARGEST_SIDE``."""
    factor = LARGEST_SIDE / max(array.shape[:2])
    if factor >= 1:
        return array
    interpolation = cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST_EXACT
    return cv2.resize(array, None, fx=factor, fy=factor, interpolation=interpolation)
