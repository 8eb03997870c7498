"""What a criterion is, and the cross-entropy that all of them share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpg_lightning.losses.cpg import checked_target


class SegmentationCriterion(nn.Module, ABC):
    """A loss on a network's logits, at whatever stride the network has.

    A subclass takes numbers in its constructor, so that YAML and ``--help`` can set them, enlarges the logits itself
    where they are smaller than the target, and leaves its parts in ``terms``: a detached scalar by name, for logging.

    Args:
        ignore_index: Target value that is no class; any integer.
        class_weights: Weight of each class in the cross-entropy: a sequence, an array or a tensor of C numbers.
    """

    terms: dict[str, Tensor]
    class_weights: tuple[float, ...] | None

    def __init__(self, ignore_index: int = 255, class_weights: Iterable[float] | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.terms = {}
        # Python's numbers have the precision of any logits; a buffer would be rounded where a module becomes bfloat16.
        self.class_weights = None if class_weights is None else tuple(float(weight) for weight in class_weights)
        if self.class_weights is not None and not (
            self.class_weights and all(0 <= weight < inf for weight in self.class_weights)
        ):
            raise ValueError(
                f"expected class_weights to be finite numbers of 0 or more, one a class, got {list(self.class_weights)}"
            )
        self._weights: Tensor | None = None  # those of the last call, so that they are copied to a device once

    @abstractmethod
    def forward(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """The loss of a network's main output.

        Args:
            logits: Floating point, (B, C, h, w).
            target: Integer, (B, H, W), classes 0..C-1 or ``ignore_index``.
            align_corners: How the logits are enlarged to (H, W), as in ``torch.nn.functional.interpolate``.

        Returns:
            A scalar.
        """

    def auxiliary(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """The loss of a network's auxiliary output: cross-entropy alone. Arguments as in :meth:`forward`."""
        target = checked_target(logits, target, self.ignore_index)
        upsampled = enlarge(logits, target.shape[-2:], align_corners)
        return cross_entropy(upsampled, target, self.ignore_index, self.weights_for(upsampled))

    def weights_for(self, logits: Tensor) -> Tensor:
        """The weight of each class (C), 1 without ``class_weights``, in the precision and on the device of the logits.

        Args:
            logits: (B, C, h, w)

        Raises:
            ValueError: If there are weights for another number of classes.
        """
        if self.class_weights is None:
            return logits.new_ones(logits.shape[1])
        if len(self.class_weights) != logits.shape[1]:
            raise ValueError(f"expected {logits.shape[1]} class_weights, one a class, got {len(self.class_weights)}")
        cached = self._weights
        if cached is None or (cached.dtype, cached.device) != (logits.dtype, logits.device):
            with torch.inference_mode(False):  # a later training step uses them too
                cached = self._weights = torch.tensor(self.class_weights, dtype=logits.dtype, device=logits.device)
        return cached


def enlarge(logits: Tensor, size: tuple[int, ...], align_corners: bool) -> Tensor:
    """Bilinear enlargement of logits (B, C, h, w) to a size (H, W), in float32 at least."""
    if logits.element_size() < 4:
        logits = logits.float()
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)


def cross_entropy(logits: Tensor, target: Tensor, ignore_index: int, weights: Tensor) -> Tensor:
    """``F.cross_entropy`` of logits (B, C, H, W) and a target (B, H, W), but 0 and not NaN where all is ignored.

    Args:
        logits: (B, C, H, W)
        target: (B, H, W)
        ignore_index: Target value that is no class.
        weights: Weight of each class, (C).
    """
    valid = target != ignore_index
    total = (weights[target.where(valid, 0)] * valid).sum()
    loss = F.cross_entropy(logits, target, weights, ignore_index=ignore_index, reduction="sum")
    return loss / total.where(total > 0, 1)
