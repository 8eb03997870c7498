"""What a criterion is, and the cross-entropy that all of them share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
        class_weights: Weight of each class in the cross-entropy.
    """

    terms: dict[str, Tensor]

    class_weights: Tensor | None

    def __init__(self, ignore_index: int = 255, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.terms = {}
        if class_weights is not None and not (class_weights and all(0 <= weight < inf for weight in class_weights)):
            raise ValueError(
                f"expected class_weights to be finite numbers of 0 or more, one a class, got {class_weights}"
            )
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

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
        self.check_class_weights(logits)
        return cross_entropy(
            enlarge(logits, target.shape[-2:], align_corners), target, self.ignore_index, self.class_weights
        )

    def check_class_weights(self, logits: Tensor) -> None:
        """Refuse logits (B, C, h, w) of another number of classes than of weights."""
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise ValueError(f"expected {logits.shape[1]} class_weights, one a class, got {len(self.class_weights)}")


def enlarge(logits: Tensor, size: tuple[int, ...], align_corners: bool) -> Tensor:
    """Bilinear enlargement of logits (B, C, h, w) to a size (H, W), in float32 at least."""
    if logits.element_size() < 4:
        logits = logits.float()
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)


def weights_for(logits: Tensor, class_weights: Tensor | None) -> Tensor:
    """The weight of each class (C), 1 without weights, as the logits (B, C, h, w) need it."""
    return logits.new_ones(logits.shape[1]) if class_weights is None else class_weights.to(logits)


def cross_entropy(logits: Tensor, target: Tensor, ignore_index: int, class_weights: Tensor | None = None) -> Tensor:
    """``F.cross_entropy`` of logits (B, C, H, W) and a target (B, H, W), but 0 and not NaN where all is ignored."""
    weights = weights_for(logits, class_weights)
    valid = target != ignore_index
    total = (weights[target.where(valid, 0)] * valid).sum()
    loss = F.cross_entropy(logits, target, weights, ignore_index=ignore_index, reduction="sum")
    return loss / total.where(total > 0, 1)
