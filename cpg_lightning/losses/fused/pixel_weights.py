"""The weights of single pixels in the mean cross-entropy over a batch."""

import math

import torch
from torch import Tensor


class PixelWeights:
    """The weight of each pixel's negative log probabilities in the mean over the batch.

    Args:
        num_classes: Number of classes C.
        dtype: The dtype of the weights.
        classes: True class, 0 where ignored, int64, (B, H, W).
        left_out: Pixels with weight 0, bool, (B, H, W).
        class_weights: Weight of each class, (C), or None for 1.
        label_smoothing: As in ``F.cross_entropy``.
        by_number: Whether to divide by the number of pixels that are not left out, instead of the sum of their class
            weights.

    Attributes:
        left_out: As in the arguments.
        true: Weight of the true class, (B, H, W).
        smooth: Weight of the sum over all classes, each times its class weight, (B, H, W); None without label
            smoothing.
        class_weights: (C)
    """

    def __init__(
        self,
        num_classes: int,
        dtype: torch.dtype,
        classes: Tensor,
        left_out: Tensor,
        class_weights: Tensor | None,
        label_smoothing: float,
        by_number: bool,
    ) -> None:
        self.left_out = left_out
        ones = torch.ones(num_classes, dtype=dtype, device=classes.device)
        self.class_weights = ones if class_weights is None else class_weights
        counts = torch.logical_not(left_out, out=torch.empty_like(left_out, dtype=dtype))
        self.true = counts if class_weights is None else class_weights[classes] * counts
        total = (counts if by_number else self.true).sum()
        total = total.masked_fill(total == 0, math.inf)  # then all weights are 0
        self.smooth = counts * (label_smoothing / len(self.class_weights) / total) if label_smoothing else None
        self.true = self.true * ((1 - label_smoothing) / total)

    def of_probabilities(self) -> Tensor:
        """The sum of the weights of all classes, (B, H, W): the factor of a pixel's probabilities in the gradient."""
        if self.smooth is None:
            return self.true.clone()
        return self.true + self.smooth * self.class_weights.sum()


def easy_or_ignored(likelihood: Tensor, ignored: Tensor, threshold: float, min_kept: int) -> Tensor:
    """The pixels that online hard example mining leaves out, bool, (B, H, W).

    Args:
        likelihood: Probability of the true class, (B, H, W).
        ignored: Pixels that are ignored, bool, (B, H, W).
        threshold: Pixels below this probability are kept.
        min_kept: Rank, from 0 for the lowest likelihood; the threshold is raised to at least the likelihood of this
            rank.
    """
    ordered = likelihood.masked_fill(ignored, math.inf).flatten().sort().values
    last = (ignored.numel() - 1 - ignored.sum()).clamp_(min=0, max=min_kept)
    bound = ordered.gather(0, last[None]).clamp_(min=threshold) if len(ordered) else threshold
    return (likelihood >= bound) | ignored  # NaN is kept, so that the loss becomes NaN
