"""Networks of others on the contract."""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpg_lightning.networks.base import SegmentationNetwork


class Adapter(SegmentationNetwork):
    """Any network that gives logits: as a tensor, as a mapping with ``"out"`` (and perhaps ``"aux"``), or as ``.logits``.

    Images are padded at the bottom and on the right with the mean colour to a multiple of ``size_divisor``. Then logits
    are enlarged to the padded size and cut to the image's; without padding they stay at the network's own stride.

    Args:
        num_classes: Number of classes C; the network has to have as many.
        network: The network. On the command line, its ``class_path`` and ``init_args``.
        size_divisor: What height and width of its input have to be multiples of, in pixels.
        align_corners: How its logits are to be enlarged, as in ``torch.nn.functional.interpolate``.
        mean: Mean of each colour channel that its input is normalised by, for images in 0..1; ImageNet's by default.
        std: Standard deviation likewise.

    Raises:
        ValueError: If the size divisor is not positive, and, in the forward pass, for other output or another number of
            classes.

    Example:
        >>> import torch
        >>> network = Adapter(5, torch.nn.Conv2d(3, 5, kernel_size=4, stride=4), size_divisor=4)
        >>> network(torch.rand(1, 3, 32, 40))["out"].shape, network(torch.rand(1, 3, 30, 41))["out"].shape
        (torch.Size([1, 5, 8, 10]), torch.Size([1, 5, 30, 41]))
    """

    def __init__(
        self,
        num_classes: int,
        network: nn.Module,
        size_divisor: int = 1,
        align_corners: bool = False,
        mean: tuple[float, float, float] = SegmentationNetwork.mean,
        std: tuple[float, float, float] = SegmentationNetwork.std,
    ) -> None:
        super().__init__()
        if size_divisor < 1:
            raise ValueError(f"expected a size_divisor of 1 or more pixels, got {size_divisor}")
        self.num_classes = num_classes
        self.network = network
        self.size_divisor = size_divisor
        self.align_corners = align_corners
        self.mean, self.std = mean, std

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See :meth:`SegmentationNetwork.forward`."""
        height, width = images.shape[-2:]
        below, beside = -height % self.size_divisor, -width % self.size_divisor
        padded = F.pad(images, (0, beside, 0, below)) if below or beside else images
        logits = self._named(self.network(padded))
        for name, tensor in logits.items():
            if tensor.ndim != 4 or tensor.shape[1] != self.num_classes:
                raise ValueError(
                    f"expected logits of shape (B, {self.num_classes}, h, w) from {type(self.network).__name__}, "
                    f"got {tuple(tensor.shape)} as {name!r}"
                )
            if padded is not images:
                size = padded.shape[-2:]
                # At a stride, no cut would fall on the image's edge.
                if tensor.shape[-2:] != size:
                    tensor = F.interpolate(tensor, size, mode="bilinear", align_corners=self.align_corners)
                logits[name] = tensor[:, :, :height, :width]
        return logits

    def _named(self, output: Any) -> dict[str, Tensor]:
        if isinstance(output, Tensor):
            return {"out": output}
        if isinstance(getattr(output, "logits", None), Tensor):
            return {"out": output.logits}
        if isinstance(output, Mapping) and isinstance(output.get("out"), Tensor):
            return {name: output[name] for name in ("out", "aux") if name in output}
        raise ValueError(
            f"expected a tensor, a mapping with 'out' or an object with .logits from {type(self.network).__name__}, "
            f"got {type(output).__name__}"
        )


def freeze_unused(network: Adapter, size: int = 256) -> None:
    """Stop training the parameters that reach no logits, such as a classifier's: DDP would wait for their gradients.

    Found by a backward pass in evaluation mode from one black image of ``size`` pixels. A network that takes no such image is
    left as it is.
    """
    training = network.training
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        with torch.enable_grad():
            logits = network.eval()(torch.zeros(1, 3, size, size))["out"]
            gradients = torch.autograd.grad(logits.sum(), trained, allow_unused=True)
    except (AssertionError, RuntimeError, ValueError):
        return
    finally:
        network.train(training)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def optional(module: str, install: str) -> ModuleType:
    """Import a module that is not installed with the package.

    Raises:
        ImportError: If it is not there, with what to type; ``install`` is what pip is to be given.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"this network needs {error.name}: pip install {install}") from error
