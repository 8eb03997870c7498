"""Region losses: Dice and Jaccard."""

from abc import abstractmethod
from math import inf
from typing import Literal

import torch
from torch import Tensor

from .criterion import SegmentationCriterion
from .target import checked_target
from .with_gradient import loss_with_gradient

Over = Literal["batch", "image", "class"]


class RegionLoss(SegmentationCriterion):
    """One minus an overlap score of the predicted and the labelled region of each class.

    A subclass sets ``name``, the key in ``terms``, and defines the score, see :class:`DiceLoss`.
    """

    name: str

    def __init__(self, over: Over = "batch", smooth: float = 1.0, ignore_index: int = 255) -> None:
        super().__init__(ignore_index)
        if over not in ("batch", "image", "class"):
            raise ValueError(f"expected over to be batch, image or class, got {over!r}")
        if not 0 < smooth < inf:
            raise ValueError(f"expected smooth to be a positive, finite number of pixels, got {smooth}")
        self.over = over
        self.smooth = smooth

    @abstractmethod
    def score(self, overlap: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:
        """The score of each region; the arguments and the result have shape (images or 1, C).

        Args:
            overlap: Sum of the class's probabilities over the pixels labelled with it.
            predicted: Sum of the class's probabilities over all labelled pixels.
            labelled: Number of pixels labelled with the class.
        """

    def forward(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """The loss; see the class. ``align_corners`` as in ``torch.nn.functional.interpolate``."""
        target = checked_target(logits, target, self.ignore_index)
        size = (target.shape[1], target.shape[2])
        loss = loss_with_gradient(logits, size, align_corners, _softmax, lambda p: self._value_and_gradient(p, target))
        self.terms = {self.name: loss.detach()}
        return loss

    def _value_and_gradient(self, probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of probabilities (B, C, H, W), and its gradient."""
        images, classes = probabilities.shape[:2]
        ignored = target == self.ignore_index
        true_class = target.masked_fill(ignored, 0).unsqueeze(1)  # (B, 1, H, W)
        # Index of each pixel's image and class, used to sum over regions.
        place = (true_class + classes * torch.arange(images, device=target.device).view(-1, 1, 1, 1)).flatten()

        def collected(pixels: Tensor) -> Tensor:
            return pixels.new_zeros(images * classes).index_add_(0, place, pixels.flatten()).view(images, classes)

        overlap = collected(probabilities.gather(1, true_class).masked_fill(ignored.unsqueeze(1), 0))  # (B, C)
        labelled = collected((~ignored).to(probabilities.dtype))
        predicted = probabilities.masked_fill(ignored.unsqueeze(1), 0).sum(dim=(2, 3))
        with torch.enable_grad():
            overlap.requires_grad_()
            predicted.requires_grad_()
            value = self._mean(overlap, predicted, labelled)
            by_overlap, by_predicted = torch.autograd.grad(value, (overlap, predicted))
        gradient = by_predicted[:, :, None, None].expand_as(probabilities).masked_fill(ignored.unsqueeze(1), 0)
        of_true = (by_overlap + by_predicted).flatten()[place].view_as(target).masked_fill(ignored, 0)
        return value.detach(), gradient.scatter_(1, true_class, of_true.unsqueeze(1))

    def _mean(self, overlap: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:
        """The mean loss of the regions (B, C) with labelled pixels."""
        if self.over == "batch":
            overlap, predicted, labelled = (each.sum(dim=0, keepdim=True) for each in (overlap, predicted, labelled))
        present = labelled > 0
        losses = 1 - self.score(overlap, predicted, labelled)
        first, second = (0, 0) if self.over == "class" else (1, 0)
        return _mean_present(*_mean_present(losses, present, first), second)[0]

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"over={self.over!r}, smooth={self.smooth}, ignore_index={self.ignore_index}"


class DiceLoss(RegionLoss):
    r"""One minus the soft Dice score of each class, computed from the softmax of the logits.

    With :math:`p` the softmax of the logits, upsampled to the size of the target, :math:`y` the one-hot target, and
    sums over the pixels that are not ignored, the loss is the mean over the classes in the labels of

    .. math::
        \mathcal{L}_c = 1 - \frac{\sum p_c y_c + s}{(\sum p_c + \sum y_c) / 2 + s}

    Large and small regions have equal weight. Use this loss together with cross-entropy, see :class:`WeightedSum`. In
    published trainings on Cityscapes, adding it lowered the mIoU: from 80.4 to 73.6 (HRNet, 3 runs each) and from 81.3
    to 81.1 (UPerNet, 3 seeds each).

    Region losses and devices: "batch" and "class" average over the images of one call, thus of one process and one
    micro-batch. With few images per process, they optimise the score of an image instead of the dataset's score.

    The loss takes the softmax and three more passes over the upsampled logits. At most three tensors of their size
    exist at a time.

    Args:
        over: Order of sums and means. "batch": sum over the images of the call, then mean over classes. "image": sum
            over each image, mean over its classes, then mean over images. "class": sum over each image, mean over the
            images with the class, then mean over classes. Images without a labelled pixel are left out.
        smooth: The :math:`s` of the formula, in pixels, positive. With 1, a class of few pixels has less weight.
        ignore_index: Target value of ignored pixels; any integer.

    Shape:
        - logits: :math:`(B, C, h, w)`, floating point
        - target: :math:`(B, H, W)`, integer, classes :math:`0..C-1` or ``ignore_index``
        - output: scalar, float32, or float64 for float64 logits; 0 if all pixels are ignored

    Raises:
        ValueError: For arguments out of range, and, in the forward pass, for other shapes, dtypes or target values.
            Target values are checked on the CPU only: on a GPU the check would force a synchronisation.
        RuntimeError: For a second derivative, because the gradient is computed in the forward pass.

    Source: Wang et al., "Jaccard Metric Losses", NeurIPS 2023, arXiv 2302.05666. Their code (zifuwanggg/JDTLosses) has
    both losses with these means. segmentation_models_pytorch divides by the number of all classes instead.

    Example:
        >>> import torch
        >>> from cpg_lightning.losses import DiceLoss
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> target = torch.tensor([[[0, 0, 1, 1]] * 4])
        >>> DiceLoss()(logits, target)  # p y sums to 4, p and y to 8 each: 1 - 5 / 9
        tensor(0.4444, grad_fn=<_LossWithGradientBackward>)
    """

    name = "dice"

    def score(self, overlap: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:  # noqa: D102
        return (overlap + self.smooth) / ((predicted + labelled) / 2 + self.smooth)


class JaccardLoss(RegionLoss):
    r"""One minus the soft Jaccard score (IoU) of each class: the Jaccard metric loss for hard labels.

    .. math::
        \mathcal{L}_c = 1 - \frac{\sum p_c y_c + s}{\sum p_c + \sum y_c - \sum p_c y_c + s}

    See :class:`DiceLoss` for symbols, arguments, means, costs and errors. The authors train with 0.25 cross-entropy +
    0.75 Jaccard loss and ``smooth=1``. They report gains for 15 networks on 12 datasets, without paired seeds or
    boundary scores.

    Source: Wang et al., "Jaccard Metric Losses", NeurIPS 2023, arXiv 2302.05666. Soft labels are not supported here.

    Example:
        >>> import torch
        >>> from cpg_lightning.losses import CrossEntropyCPGLoss, JaccardLoss, WeightedSum
        >>> criterion = WeightedSum([CrossEntropyCPGLoss(cpg_weight=0), JaccardLoss()], weights=[0.25, 0.75])
        >>> loss = criterion(torch.zeros(1, 2, 4, 4), torch.tensor([[[0, 0, 1, 1]] * 4]))
        >>> criterion.terms
        {'ce': tensor(0.6931), 'jaccard': tensor(0.6154)}
    """

    name = "jaccard"

    def score(self, overlap: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:  # noqa: D102
        return (overlap + self.smooth) / (predicted + labelled - overlap + self.smooth)


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1)


def _mean_present(values: Tensor, present: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The mean of the values where ``present`` is true, 0 for none, and whether any value is present."""
    return values.where(present, 0).sum(dim) / present.sum(dim).clamp(min=1), present.any(dim)
