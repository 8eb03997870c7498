"""From a checkpoint to label maps, for Python and notebooks."""

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
    """Predicts the classes of images, resized as they were in the training's evaluation.

    An image is a file, a picture of Pillow's, RGB values as a NumPy array, uint8 (H, W, 3), or as a tensor, uint8 (3, H, W).
    Results have the image's own size.

    Args:
        module: A trained module.
        inference: How images are predicted; the module's way by default.
        device: Where.

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
        # A copy: the caller may go on training the module, on its device.
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
        """A predictor of a checkpoint that ``cpg fit`` or a Trainer has written.

        Arguments and errors as of :meth:`SegmentationModule.load_from_checkpoint`, but for ``inference`` and ``device``, see
        :class:`Predictor`.
        """
        return cls(SegmentationModule.load_from_checkpoint(path, network=network, allow=allow), inference, device)

    @overload
    def __call__(self, image: Picture) -> np.ndarray: ...  # type: ignore[overload-overlap]  # a str is a sequence too
    @overload
    def __call__(self, image: Sequence[Picture]) -> list[np.ndarray]: ...
    def __call__(self, image: Picture | Sequence[Picture]) -> np.ndarray | list[np.ndarray]:
        """The class of each pixel, uint8 (H, W).

        Args:
            image: An image, or a list of images of any sizes, which gives a list; see :class:`Predictor`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be read, is no RGB image of 8 bits, or the list is empty.
        """
        if not isinstance(image, list | tuple):
            return self._classes(read_image(image))  # type: ignore[arg-type]  # no other sequence is an image
        if not image:
            raise ValueError("expected one image or more, got an empty list")
        return [self._classes(read_image(each)) for each in image]

    def probabilities(self, image: Picture) -> np.ndarray:
        """The probability of each class at each pixel of one image, float32 (C, H, W). Errors as of :meth:`__call__`."""
        pixels, module = read_image(image), self.module
        size = pixels.shape[0], pixels.shape[1]
        with torch.inference_mode():
            probabilities = module.inference.probabilities(
                lambda images: module(images)["out"], self._batch(pixels)["image"], size, module.network.align_corners
            )
        values: np.ndarray = probabilities[0].numpy()
        return values

    def overlay(self, image: Picture) -> Image.Image:
        """A picture of one image with the predicted classes over it, in their colours. Errors as of :meth:`__call__`."""
        pixels = read_image(image)
        return Image.fromarray(overlay(pixels, self._classes(pixels), self.classes.palette))

    def label_values(self, image: Picture, data: SegmentationDataModule) -> np.ndarray:
        """The predicted classes as the values of a dataset's label files, e.g. 7 for Cityscapes' road, uint8 (H, W).

        Args:
            image: One image.
            data: The data module; its files are not read.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: As of :meth:`__call__`, and if the data module has other classes.
        """
        data.classes.check_same(self.classes.names, "the predictor")
        return data.to_label_values(self._classes(read_image(image)))

    def _classes(self, pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            classes: np.ndarray = self.module.predicted_classes(self._batch(pixels))[0].cpu().numpy()
        return classes.astype(np.uint8)

    def _batch(self, pixels: np.ndarray) -> dict[str, Any]:
        """A batch of one image, uint8 (H, W, 3)."""
        sample = evaluation_sample(self.pipeline, pixels, f"an image of {pixels.shape[0]}x{pixels.shape[1]} pixels")
        return {"image": sample["image"][None].to(self.device), "size": sample["size"][None]}
