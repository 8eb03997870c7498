"""From a checkpoint to label maps, for Python and notebooks."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cpg_lightning.data.decoding import read_image
from cpg_lightning.data.transforms import evaluation_pipeline
from cpg_lightning.inference import Inference
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import SegmentationNetwork
from cpg_lightning.networks.weights import read_file


class Predictor:
    """Predicts the classes of images one by one, resized as they were in the training's evaluation.

    Args:
        module: A trained module.
        inference: How images are predicted; the module's way by default.
        device: Where.

    Attributes:
        class_names: Name of each class.
        palette: Colour of each class, RGB; None if the module has none.

    Example:
        >>> predictor = Predictor.from_checkpoint("last.ckpt")  # doctest: +SKIP
        >>> predictor("street.jpg").shape  # doctest: +SKIP
        (1024, 2048)
    """

    def __init__(
        self, module: SegmentationModule, inference: Inference | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.module = module.to(device).eval()
        self.module.inference = inference or module.inference
        self.device = torch.device(device)
        self.class_names = list(module.class_names)
        self.palette = module.palette
        self.pipeline = evaluation_pipeline(module.image_size)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        network: SegmentationNetwork | None = None,
        inference: Inference | None = None,
        device: str | torch.device = "cpu",
    ) -> "Predictor":
        """A predictor of a checkpoint that ``cpg fit`` or a Trainer has written.

        Args:
            path: The checkpoint.
            network: The network, where the module was built in Python: such a checkpoint does not say which.
            inference: See :class:`Predictor`.
            device: See :class:`Predictor`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint of this package, needs a network, or is of another.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"expected a checkpoint file, got none: {path}")
        checkpoint = read_file(str(path))
        arguments = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
        if not isinstance(arguments, dict) or "num_classes" not in arguments:
            raise ValueError(f"expected a checkpoint of this package, got another: {path}")
        if "_instantiator" not in arguments and network is None:
            raise ValueError(f"expected a network with a checkpoint that was built in Python, got none: {path}")
        try:
            if network is None:
                module = SegmentationModule.load_from_checkpoint(path, map_location="cpu")
            else:
                module = SegmentationModule.load_from_checkpoint(
                    path, map_location="cpu", network=network, criterion=CrossEntropyCPGLoss()
                )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ValueError(f"expected a checkpoint of this network, got another ({reason}): {path}") from error
        return cls(module, inference, device)

    def __call__(self, image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
        """The class of each pixel of an image, uint8 (H, W).

        Args:
            image: A file, a picture, or RGB values, uint8 (H, W, 3).

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be read, or is no RGB image of 8 bits.
        """
        pixels = _pixels(image)
        resized = self.pipeline(image=pixels)["image"]
        batch = {
            "image": torch.from_numpy(np.ascontiguousarray(resized)).permute(2, 0, 1)[None].to(self.device),
            "size": torch.tensor([pixels.shape[:2]]),
        }
        with torch.inference_mode():
            classes: np.ndarray = self.module.classes(batch)[0].cpu().numpy().astype(np.uint8)
        return classes


def _pixels(image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    return read_image(image)
