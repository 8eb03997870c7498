"""Cross-entropy plus CPG: the criterion of training."""

import math

from torch import Tensor

from cpg_lightning.losses.base import SegmentationCriterion, cross_entropy, enlarge
from cpg_lightning.losses.cpg import checked_target, cpg_loss, integer_kernel


class CrossEntropyCPGLoss(SegmentationCriterion):
    r"""Cross-entropy plus the weighted CPG loss, on a network's logits at whatever stride.

    .. math::
        \mathcal{L} = \mathrm{CE}(z, t) + \lambda \, \mathrm{CPG}(z, t)

    with :math:`z` the logits, enlarged bilinearly to the size of the target :math:`t`, and :class:`~cpg_lightning.CPGLoss`
    as CPG. Both parts are means over this call, and 0 where every pixel is ignored. After a forward pass ``terms`` holds
    them, detached and unweighted, as ``{"ce": ..., "cpg": ...}``; with a weight of 0, CPG is neither computed nor listed.

    Args:
        cpg_weight: The weight :math:`\lambda`, 0 or more. 0 is plain cross-entropy.
        kernel_size: Side of CPG's kernel in pixels, odd, 3 to 15.
        ignore_index: Target value that is no class; any integer.
        void_borders: Whether CPG counts boundaries against ignored regions, see :class:`~cpg_lightning.CPGLoss`.

    Shape:
        - logits: :math:`(B, C, h, w)`, floating point
        - target: :math:`(B, H, W)`, integer, classes :math:`0..C-1` or ``ignore_index``
        - output: scalar, in float32, or float64 for float64 logits

    Raises:
        ValueError: If the weight is negative or infinite, for a kernel size that is not odd or out of range, and, in the forward
            pass, for shapes, dtypes or target values other than above.

    Source: Shan and Jia, "Convolution-based Probability Gradient Loss for Semantic Segmentation", arXiv 2404.06704.

    Example:
        >>> import torch
        >>> from cpg_lightning import CrossEntropyCPGLoss
        >>> criterion = CrossEntropyCPGLoss(cpg_weight=0.5)
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> target = torch.zeros(1, 32, 32, dtype=torch.long)
        >>> target[..., 16:] = 1
        >>> loss = criterion(logits, target)
        >>> criterion.terms
        {'ce': tensor(0.6931), 'cpg': tensor(4.)}
        >>> loss.backward()
    """

    def __init__(
        self, cpg_weight: float = 1.0, kernel_size: int = 3, ignore_index: int = 255, void_borders: bool = True
    ) -> None:
        super().__init__(ignore_index)
        if not 0 <= cpg_weight < math.inf:
            raise ValueError(f"expected cpg_weight to be 0 or more and finite, got {cpg_weight}")
        integer_kernel(kernel_size)
        self.cpg_weight = cpg_weight
        self.kernel_size = kernel_size
        self.void_borders = void_borders

    def forward(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """See :class:`CrossEntropyCPGLoss`; ``align_corners`` as in ``torch.nn.functional.interpolate``."""
        target = checked_target(logits, target, self.ignore_index)
        logits = enlarge(logits, target, align_corners)
        loss = ce = cross_entropy(logits, target, self.ignore_index)
        self.terms = {"ce": ce.detach()}
        if self.cpg_weight:
            cpg = cpg_loss(logits, target, self.kernel_size, self.ignore_index, self.void_borders)
            self.terms["cpg"] = cpg.detach()
            loss = ce + self.cpg_weight * cpg
        return loss

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"cpg_weight={self.cpg_weight}, kernel_size={self.kernel_size}, ignore_index={self.ignore_index}, "
            f"void_borders={self.void_borders}"
        )
