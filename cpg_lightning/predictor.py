"""From a checkpoint to label maps, for Python and notebooks."""

import copy
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cpg_lightning.data.decoding import read_image
from cpg_lightning.data.resizing import evaluation_pipeline
from cpg_lightning.inference import Inference
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import SegmentationNetwork


class Predictor:
    """Predicts the classes of images one by one, resized as they were in the training's evaluation.

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

    def __call__(self, image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
        """The class of each pixel of an image, uint8 (H, W).

        Args:
            image: A file, a picture, or RGB values, uint8 (H, W, 3).

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be read, or is no RGB image of 8 bits.
        """
        pixels = read_image(image)
        resized = self.pipeline(image=pixels)["image"]
        batch = {
            "image": torch.from_numpy(np.ascontiguousarray(resized)).permute(2, 0, 1)[None].to(self.device),
            "size": torch.tensor([pixels.shape[:2]]),
        }
        with torch.inference_mode():
            classes: np.ndarray = self.module.predicted_classes(batch)[0].cpu().numpy().astype(np.uint8)
        return classes
