"""The contract of a segmentation network."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class SegmentationNetwork(nn.Module, ABC):
    """A network that maps normalised images to logits at its own stride.

    A subclass takes ``num_classes`` as its first constructor argument (the command line fills it from the data) and
    states, as class attributes, whatever differs here:

    Attributes:
        align_corners: How its logits are enlarged, as in ``torch.nn.functional.interpolate``.
        mean: Mean of each colour channel that its input is normalised by, for images in 0..1.
        std: Standard deviation likewise. Both are ImageNet's unless told otherwise.
        pretrained: Names of the constructor's arguments that fetch weights to start from. A checkpoint, which has all
            weights, leaves them out.
    """

    align_corners: ClassVar[bool] = False
    mean: ClassVar[tuple[float, float, float]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, float, float]] = (0.229, 0.224, 0.225)
    pretrained: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of the classes, not enlarged.

        Args:
            images: Normalised RGB images, (B, 3, H, W).

        Returns:
            ``"out"``: logits (B, C, h, w) at the network's own stride; ``"aux"``: those of its auxiliary head, if it
            has one.
        """
