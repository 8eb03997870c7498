"""The weights of single pixels in the mean cross-entropy over a batch."""

import math

from torch import Tensor


class PixelWeights:
    """With what weight each pixel's negative log probabilities count in the mean over the batch.

    Args:
        logits: (B, C, h, w)
        classes: True class, 0 where ignored, int64, (B, H, W).
        ignored: Pixels that are ignored, bool, (B, H, W).
        kept: Pixels that online hard example mining keeps, bool, (B, H, W), or None for all.
        class_weights: Weight of each class, (C), or None for 1.
        label_smoothing: As in ``F.cross_entropy``.

    Attributes:
        true: Weight of the true class, (B, H, W).
        smooth: Weight of the sum over all classes, each times its class weight, (B, H, W); None without label smoothing.
        left_out: Pixels that do not count, bool, (B, H, W).
        class_weights: (C)
    """

    def __init__(
        self,
        logits: Tensor,
        classes: Tensor,
        ignored: Tensor,
        kept: Tensor | None,
        class_weights: Tensor | None,
        label_smoothing: float,
    ) -> None:
        self.class_weights = logits.new_ones(logits.shape[1]) if class_weights is None else class_weights
        self.left_out = ignored if kept is None else ~kept
        is_valid = (~ignored).to(logits.dtype)
        self.true = is_valid if class_weights is None else class_weights[classes] * is_valid
        total = self.true.sum()
        if kept is not None:
            self.true = self.true * kept
            total = kept.sum().to(self.true.dtype)
        total = total.masked_fill(total == 0, math.inf)  # then all weights are 0
        self.smooth = is_valid * (label_smoothing / len(self.class_weights) / total) if label_smoothing else None
        self.true = self.true * ((1 - label_smoothing) / total)

    def of_probabilities(self) -> Tensor:
        """The sum of the weights of all classes, (B, H, W): of a pixel's probabilities in the gradient."""
        if self.smooth is None:
            return self.true.clone()
        return self.true + self.smooth * self.class_weights.sum()


def ohem_mask(likelihood: Tensor, ignored: Tensor, threshold: float, min_kept: int) -> Tensor:
    """The pixels that online hard example mining keeps, bool, (B, H, W).

    Args:
        likelihood: Probability of the true class, (B, H, W).
        ignored: Pixels that are ignored, bool, (B, H, W).
        threshold: Pixels below this probability are kept.
        min_kept: Place in the order of likelihood that the threshold is raised to.
    """
    ordered = likelihood.masked_fill(ignored, math.inf).flatten().sort().values
    last = (ignored.numel() - 1 - ignored.sum()).clamp(min=0, max=min_kept)
    bound = ordered.gather(0, last[None]).clamp(min=threshold) if len(ordered) else threshold
    return ~((likelihood >= bound) | ignored)  # NaN is kept: a loss of NaN must be seen
