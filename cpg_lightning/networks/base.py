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

    A subclass takes ``num_classes`` as its first constructor argument (the command line fills it from the data) and
    states, as attributes of the class or in the constructor, whatever differs here:

    Attributes:
        align_corners: How its logits are upsampled, as in ``torch.nn.functional.interpolate``.
        mean: Mean of each colour channel that its input is normalised by, for images in 0..1.
        std: Standard deviation likewise. Both are ImageNet's unless told otherwise.
        memory_format: How its weights and images lie in memory where that is fastest.
        fixed_size: Height and width of its images in pixels, where it takes one size alone.
        unprobed: Why it is not known which parameters reach no logits, for which DDP would wait in vain; None where it
            is known.
        pretrained_arguments: Names of the constructor's arguments that download weights to start from, and by default do
            not. A checkpoint has all weights and leaves them out.
        paths: Names of the constructor's arguments that are files or folders. A checkpoint may not give them.
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
        """Logits of the classes, not upsampled.

        Args:
            images: Normalised RGB images, (B, 3, H, W).

        Returns:
            ``"out"``: logits (B, C, h, w) at the network's own stride; ``"aux"``: those of its auxiliary head, if it
            has one.
        """

    @classmethod
    def without_pretrained(cls) -> dict[str, Any]:
        """The arguments of :attr:`pretrained_arguments` as they are by default."""
        return {name: signature(cls).parameters[name].default for name in cls.pretrained_arguments}

    def checkpoint_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The constructor's arguments with which a checkpoint builds the network again: nothing is downloaded or read.

        Args:
            arguments: Those that the network was built with, plain values by name.

        Returns:
            Plain values by name, for a network with weights of the same names and shapes.
        """
        return arguments | {name: value for name, value in self.without_pretrained().items() if name in arguments}

    def load_weights(self, source: Source, new_classifier: bool = False) -> None:
        """Start from the weights of a checkpoint of this package, or of a state dict that others wrote.

        Prefixes before names may differ, and what is not the network's is left out with a warning; see
        :func:`~cpg_lightning.networks.weights.load_into`.

        Args:
            source: A file (``.ckpt``, ``.pt``, ``.pth`` or ``.safetensors``) or a state dict, see
                :func:`~cpg_lightning.networks.weights.read_weights`.
            new_classifier: Whether the last layers start anew where the weights are of another number of classes, with
                a warning that names them.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file cannot be read safely, or weights are missing or of another shape: up to three of
                each are named.
        """
        load_into(self, read_weights(source), new_classifier)


def check_num_classes(num_classes: int) -> None:
    """Refuse what is no number of classes.

    Raises:
        ValueError: If it is no whole number or below 2.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 2:
        raise ValueError(f"expected num_classes to be 2 or more, got {num_classes!r}; name the background as a class")
