"""The contract of a segmentation network."""

from abc import ABC, abstractmethod
from inspect import signature
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from cpg_lightning.networks.weights import Source, load_into, read_weights


class SegmentationNetwork(nn.Module, ABC):
    """A network that maps normalised images to logits at its own stride.

    The first constructor argument of a subclass is ``num_classes``; the command line sets it from the data. A subclass
    sets the following attributes, in the class or in the constructor, if their values differ from the defaults.

    Attributes:
        align_corners: How the logits are upsampled, as in ``torch.nn.functional.interpolate``.
        mean: Mean of each colour channel for normalisation, for images in 0..1; ImageNet's by default.
        std: Standard deviation of each colour channel for normalisation; ImageNet's by default.
        memory_format: Memory format of weights and images with which the network is fastest.
        fixed_size: Height and width of the images in pixels, for a network that accepts a single size.
        unprobed: Reason why the parameters that do not contribute to the logits are unknown; None if they are known.
            DDP would wait for the gradients of such parameters.
        pretrained_arguments: Names of the constructor arguments that download pretrained weights; their defaults do
            not. A checkpoint contains all weights and resets these arguments to their defaults.
        paths: Names of the constructor arguments that are files or folders. A checkpoint must not set them. Experiments
            are compared by their content.
    """

    align_corners: bool = False
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    memory_format: torch.memory_format = torch.contiguous_format
    fixed_size: tuple[int, int] | None = None
    unprobed: str | None = None
    pretrained_arguments: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the logits of the classes, without upsampling.

        Args:
            images: Normalised RGB images, (B, 3, H, W).

        Returns:
            ``"out"``: logits (B, C, h, w) at the network's own stride. ``"aux"``: logits of the auxiliary head, if the
            network has one.
        """

    @classmethod
    def without_pretrained(cls) -> dict[str, Any]:
        """The default values of :attr:`pretrained_arguments`."""
        return {name: signature(cls).parameters[name].default for name in cls.pretrained_arguments}

    def checkpoint_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Constructor arguments that rebuild the network from a checkpoint, without downloading or reading files.

        Args:
            arguments: Arguments that the network was built with, plain values by name.

        Returns:
            Plain values by name. They build a network whose weights have the same names and shapes.
        """
        return arguments | {name: value for name, value in self.without_pretrained().items() if name in arguments}

    def load_weights(self, source: Source, new_classifier: bool = False) -> None:
        """Load weights from a checkpoint of this package, or from another state dict.

        Names may have different prefixes. Entries that do not belong to the network are left out with a warning; see
        :func:`~cpg_lightning.networks.weights.load_into`.

        Args:
            source: A file (``.ckpt``, ``.pt``, ``.pth`` or ``.safetensors``) or a state dict, see
                :func:`~cpg_lightning.networks.weights.read_weights`.
            new_classifier: Whether to reinitialise the last layers if the weights have another number of classes. A
                warning names these layers.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file cannot be read safely, or weights are missing or have other shapes. The error names
                up to three of each.
        """
        load_into(self, read_weights(source), new_classifier)


def check_num_classes(num_classes: int) -> None:
    """Check a number of classes.

    Raises:
        ValueError: If it is not an integer or is below 2.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 2:
        raise ValueError(f"expected num_classes to be 2 or more, got {num_classes!r}; name the background as a class")
