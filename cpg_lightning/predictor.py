"""Prediction of label maps from a checkpoint, for Python and notebooks."""

import copy
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.data.dataset import evaluation_sample
from cpg_lightning.data.decoding import Picture, read_image
from cpg_lightning.data.resizing import evaluation_pipeline
from cpg_lightning.inference import Inference
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import SegmentationNetwork
from cpg_lightning.pictures import overlay


class Predictor:
    """Predicts the classes of images.

    An image is a file, a Pillow image, a NumPy array, uint8 (H, W, 3) RGB, or a tensor, uint8 (3, H, W). It is resized as in
    the evaluation of the training. The result has the original size of the image.

    Args:
        module: A trained module.
        inference: How images are predicted; as in the module by default.
        device: The device.

    Attributes:
        classes: The classes.

    Example:
        >>> predictor = Predictor.from_checkpoint("last.ckpt")  # doctest: +SKIP
        >>> predictor("street.jpg").shape  # doctest: +SKIP
        (1024, 2048)
        >>> maps = predictor(["street.jpg", "bridge.png"])  # doctest: +SKIP
        >>> predictor.probabilities("street.jpg").shape  # doctest: +SKIP
        (19, 1024, 2048)
        >>> predictor.overlay("street.jpg").save("overlay.png")  # doctest: +SKIP
    """

    def __init__(
        self, module: SegmentationModule, inference: Inference | None = None, device: str | torch.device = "cpu"
    ) -> None:
        # A copy, because the caller may continue to train the module on its device.
        self.module = copy.deepcopy(module).to(device).eval()
        self.module.inference = inference or module.inference
        self.device = torch.device(device)
        self.classes = module.classes
        self.pipeline = evaluation_pipeline(module.image_size)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        network: SegmentationNetwork | None = None,
        inference: Inference | None = None,
        device: str | torch.device = "cpu",
        allow: Collection[str] = (),
    ) -> "Predictor":
        """Build a predictor from a checkpoint of ``cpg fit`` or of a Trainer.

        A checkpoint has no inference: by default, each whole image is predicted once, even if the training was evaluated with
        an ``inference`` of its own. For ``device``, see :class:`Predictor`. For the other arguments and the errors, see
        :meth:`SegmentationModule.load_from_checkpoint`.
        """
        return cls(SegmentationModule.load_from_checkpoint(path, network=network, allow=allow), inference, device)

    @overload
    def __call__(self, image: Picture) -> np.ndarray: ...  # type: ignore[overload-overlap]  # a str is a sequence too
    @overload
    def __call__(self, image: Sequence[Picture]) -> list[np.ndarray]: ...
    def __call__(self, image: Picture | Sequence[Picture]) -> np.ndarray | list[np.ndarray]:
        """Predict the class of each pixel, uint8 (H, W).

        Args:
            image: An image, or a list of images of any sizes; see :class:`Predictor`. The result for a list is a list.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If an image cannot be read or is not an RGB image of 8 bits, or if the list is empty.
        """
        if not isinstance(image, list | tuple):
            return self._classes(read_image(image))  # type: ignore[arg-type]  # no other sequence is an image
        if not image:
            raise ValueError("expected one image or more, got an empty list")
        return [self._classes(read_image(each)) for each in image]

    def probabilities(self, image: Picture) -> np.ndarray:
        """Predict the probability of each class at each pixel of one image, float32 (C, H, W). Errors: :meth:`__call__`."""
        pixels, module = read_image(image), self.module
        size = pixels.shape[0], pixels.shape[1]
        with torch.inference_mode():
            probabilities = module.inference.probabilities(
                lambda images: module(images)["out"], self._batch(pixels)["image"], size, module.network.align_corners
            )
        values: np.ndarray = probabilities[0].numpy()
        return values

    def overlay(self, image: Picture) -> Image.Image:
        """Draw the predicted classes over one image, in their colours. Errors: see :meth:`__call__`."""
        pixels = read_image(image)
        return Image.fromarray(overlay(pixels, self._classes(pixels), self.classes.palette))

    def label_values(self, image: Picture, data: SegmentationDataModule) -> np.ndarray:
        """Predict the values of a dataset's label files, e.g. 7 for the road of Cityscapes, uint8 (H, W).

        Args:
            image: One image.
            data: The data module; its files are not read.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: As in :meth:`__call__`, and if the data module has other classes.
        """
        data.classes.check_same(self.classes.names, "the predictor")
        return data.to_label_values(self._classes(read_image(image)))

    def _classes(self, pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            classes: np.ndarray = self.module.predicted_classes(self._batch(pixels))[0].cpu().numpy()
        return classes.astype(np.uint8)

    def _batch(self, pixels: np.ndarray) -> dict[str, Any]:
        """Build a batch of one image, uint8 (H, W, 3)."""
        sample = evaluation_sample(self.pipeline, pixels, f"an image of {pixels.shape[0]}x{pixels.shape[1]} pixels")
        return {"image": sample["image"][None].to(self.device), "size": sample["size"][None]}
