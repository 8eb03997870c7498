"""A weighted sum of criteria."""

from collections import Counter
from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor, nn

from .criterion import SegmentationCriterion


class WeightedSum(SegmentationCriterion):
    """The weighted sum of criteria, such as cross-entropy plus Lovász-softmax.

    After a forward pass, ``terms`` holds the terms of all criteria, detached and unweighted. A name that two criteria
    share is prefixed with the class name, and with a number for two criteria of one class: ``DiceLoss1/dice``,
    ``DiceLoss2/dice``. The auxiliary output gets cross-entropy, with the class weights of the first criterion that has
    class weights. Each criterion upsamples the logits itself. Criteria that compute their gradient in the forward pass
    thus hold their tensors one after another.

    Args:
        losses: The criteria, 1 or more.
        weights: The weight of each criterion, 0 or more. A criterion with weight 0 is neither computed nor listed.

    Shape:
        - logits: :math:`(B, C, h, w)`, floating point
        - target: :math:`(B, H, W)`, integer, classes :math:`0..C-1` or ``ignore_index``
        - output: scalar

    Raises:
        ValueError: If there is no loss, if the numbers of weights and losses differ, if a weight is negative or
            infinite, if all weights are 0, or if the losses differ in ``ignore_index``.

    Example:
        >>> import torch
        >>> from cpg_lightning.losses import CrossEntropyCPGLoss, LovaszSoftmaxLoss, WeightedSum
        >>> criterion = WeightedSum([CrossEntropyCPGLoss(), LovaszSoftmaxLoss()], weights=[1.0, 0.5])
        >>> loss = criterion(torch.zeros(1, 2, 4, 4), torch.tensor([[[0, 0, 1, 1]] * 4]))
        >>> criterion.terms
        {'ce': tensor(0.6931), 'cpg': tensor(4.), 'lovasz': tensor(0.5000)}

    In YAML::

        class_path: WeightedSum
        init_args:
          losses:
            - class_path: CrossEntropyCPGLoss
            - class_path: LovaszSoftmaxLoss
          weights: [1.0, 0.5]
    """

    def __init__(self, losses: Sequence[SegmentationCriterion], weights: Sequence[float]) -> None:
        if not losses:
            raise ValueError("expected 1 or more losses, got none")
        if len(losses) != len(weights):
            raise ValueError(f"expected a weight for each of {len(losses)} losses, got {len(weights)}")
        if not all(0 <= weight < inf for weight in weights) or not any(weights):
            raise ValueError(f"expected weights of 0 or more, finite and not all 0, got {list(weights)}")
        indices = [loss.ignore_index for loss in losses]
        if len(set(indices)) > 1:
            raise ValueError(f"expected losses with one ignore_index, got {indices}")
        super().__init__(indices[0], next((loss.class_weights for loss in losses if loss.class_weights), None))
        self.losses: Sequence[SegmentationCriterion] = nn.ModuleList(losses)  # type: ignore[assignment]
        self.weights = tuple(float(weight) for weight in weights)

    def forward(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """See :class:`WeightedSum`; ``align_corners`` as in ``torch.nn.functional.interpolate``."""
        used = [(loss, weight) for loss, weight in zip(self.losses, self.weights, strict=True) if weight]
        total = torch.stack([weight * loss(logits, target, align_corners) for loss, weight in used]).sum()
        self.terms = _named_apart([loss for loss, _ in used])
        return total

    def extra_repr(self) -> str:
        """The weights; the losses are shown as submodules."""
        return f"weights={list(self.weights)}"


def _named_apart(losses: Sequence[SegmentationCriterion]) -> dict[str, Tensor]:
    """The terms of all losses; names that several losses share are prefixed with the class name."""
    names = Counter(name for loss in losses for name in loss.terms)
    classes = Counter(type(loss).__name__ for loss in losses)
    seen: Counter[str] = Counter()
    terms: dict[str, Tensor] = {}
    for loss in losses:
        owner = type(loss).__name__
        seen[owner] += 1
        label = f"{owner}{seen[owner]}" if classes[owner] > 1 else owner
        terms |= {name if names[name] == 1 else f"{label}/{name}": term for name, term in loss.terms.items()}
    return terms
