"""The region mutual information (RMI) loss."""

from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .criterion import SegmentationCriterion
from .target import checked_target
from .with_gradient import loss_with_gradient

Pooling = Literal["max", "average"]
# Side of a neighbourhood, in pooled pixels.
SIDE = 3
# Added to the diagonal of covariances.
ALPHA = 5e-4
# Number of logits that are processed together: large enough that a kernel takes longer than its launch.
CHUNK = 2**23


class RMILoss(SegmentationCriterion):
    r"""Mean of binary cross-entropy and a negative lower bound of the mutual information of label and prediction.

    With :math:`s` the sigmoid of the logits, upsampled to the size of the target, :math:`y` the one-hot target and
    :math:`n` the number of pixels that are not ignored,

    .. math::
        \mathcal{L} = \frac{1}{2} \mathrm{BCE} + \frac{1}{2} \mathrm{RMI}, \qquad
        \mathrm{BCE} = \frac{1}{n + 1} \sum \left[ -y \log s - (1 - y) \log (1 - s) \right]

    where the sum is over the classes and the pixels that are not ignored. For RMI, each class map of each image is
    pooled. The 3 x 3 neighbourhoods of the pooled maps are vectors, Y for the label and P for the prediction. With
    :math:`\Sigma` their covariances times the number of neighbourhoods,

    .. math::
        \mathrm{RMI} = \sum_c \operatorname*{mean}_{\text{images}} \frac{1}{18} \log \det \left(
        \Sigma_Y - \Sigma_{YP} (\Sigma_P + \alpha I)^{-1} \Sigma_{YP}^T + \alpha I \right), \qquad \alpha = 0.0005

    The loss can be negative. It depends on the number of classes and on the image size. A class that is absent from an
    image adds the constant :math:`\log(\alpha) / 2 = -3.8`. Training uses one sigmoid per class; predictions remain the
    argmax of the logits. After a forward pass, ``terms`` has "bce" and "rmi".

    In published trainings on Cityscapes, the loss gained over cross-entropy 0.5 (HRNet) and 0.7 (OCR, RMI for the main
    output only) points of mIoU with three runs each, and 0.8 (DeepLabV3+) in a single run. Seeds of one training differ
    by 0.4 to 0.7.

    Covariances are computed in float64, which Apple's devices do not support, for some classes of one image at a time.
    They need at most 0.5 GiB besides the upsampled logits and their gradient. The host does not wait for the device.

    Args:
        pooling: "max", as in the authors' class, or "average", which includes the zeros of the padding.
        kernel_size: Side of the pooling window in pixels, 1 or more. The authors' training script uses average pooling
            of 4.
        stride: Stride of the pooling window in pixels, 1 or more.
        ignore_index: Target value of ignored pixels; any integer.

    Shape:
        - logits: :math:`(B, C, h, w)`, floating point
        - target: :math:`(B, H, W)`, integer, classes :math:`0..C-1` or ``ignore_index``, large enough for 3 x 3 pooled
          pixels
        - output: scalar, float32, or float64 for float64 logits

    Raises:
        ValueError: For arguments out of range, and, in the forward pass, for other shapes, dtypes or target values.
            Target values are checked on the CPU only: on a GPU the check would force a synchronisation.
        RuntimeError: For a second derivative, because the gradient is computed in the forward pass.

    Source: Zhao et al., "Region Mutual Information Loss for Semantic Segmentation", NeurIPS 2019, arXiv 1910.12037. The
    values equal those of the authors' code (ZJULearning/RMI), which inverts :math:`\Sigma_P + \alpha I` and then takes
    a Cholesky factor of the remaining matrix. Here one Cholesky factor of the covariance of (P, Y) contains that factor
    as its last block, and the matrix is never singular.

    Example:
        >>> import torch
        >>> from cpg_lightning.losses import RMILoss
        >>> criterion = RMILoss()
        >>> loss = criterion(torch.zeros(1, 2, 4, 4), torch.arange(2).repeat_interleave(16).expand(1, 32, 32))
        >>> criterion.terms["bce"]  # 2 log 2 times n / (n + 1)
        tensor(1.3849)
    """

    def __init__(
        self, pooling: Pooling = "max", kernel_size: int = 3, stride: int = 3, ignore_index: int = 255
    ) -> None:
        super().__init__(ignore_index)
        if pooling not in ("max", "average"):
            raise ValueError(f"expected pooling to be max or average, got {pooling!r}")
        for name, value in (("kernel_size", kernel_size), ("stride", stride)):
            if value < 1:
                raise ValueError(f"expected {name} to be 1 or more pixels, got {value}")
        self.pooling = pooling
        self.kernel_size = kernel_size
        self.stride = stride

    def forward(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """See :class:`RMILoss`; ``align_corners`` as in ``torch.nn.functional.interpolate``."""
        target = checked_target(logits, target, self.ignore_index)
        size = (target.shape[1], target.shape[2])
        pooled = [(side + 2 * (self.kernel_size // 2) - self.kernel_size) // self.stride + 1 for side in size]
        if min(pooled) < SIDE:
            raise ValueError(
                f"expected a target of at least {SIDE}x{SIDE} pixels after pooling, got {pooled[0]}x{pooled[1]} from "
                f"{size[0]}x{size[1]}; train with larger crops, or a smaller stride"
            )
        return loss_with_gradient(
            logits, size, align_corners, lambda z: z, lambda z: self._value_and_gradient(z, target)
        )

    def _value_and_gradient(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of upsampled logits (B, C, H, W), and its gradient."""
        valid = (target != self.ignore_index).unsqueeze(1)  # (B, 1, H, W)
        pixels = valid.sum() + 1  # not 0 if all pixels are ignored
        bce, rmi, gradient = logits.new_zeros(()), logits.new_zeros(()), torch.empty_like(logits)
        # Classes are independent of each other, so they are processed in chunks.
        step = max(1, CHUNK // target[:1].numel()) if len(target) else 1
        for image, first in product(range(len(logits)), range(0, logits.shape[1], step)):
            part = slice(image, image + 1), slice(first, first + step)
            with torch.enable_grad():
                leaf = logits[part].requires_grad_()
                classes = torch.arange(first, first + leaf.shape[1], device=target.device).view(1, -1, 1, 1)
                part_bce, part_rmi = self._parts(leaf, (target[image] == classes) & valid[image], valid[image])
                part_bce, part_rmi = part_bce / pixels, part_rmi / len(logits)
                (gradient[part],) = torch.autograd.grad((part_bce + part_rmi) / 2, leaf)
            bce, rmi = bce + part_bce.detach(), rmi + part_rmi.detach()
        self.terms = {"bce": bce, "rmi": rmi}
        return (bce + rmi) / 2, gradient

    def _parts(self, logits: Tensor, true: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of binary cross-entropy and of RMI over some classes of an image.

        Args:
            logits: (1, C, H, W)
            true: Whether a pixel is of the class, (1, C, H, W).
            valid: Whether a pixel is not ignored, broadcast to (1, C, H, W).
        """
        true = true.to(logits.dtype)
        bce = F.binary_cross_entropy_with_logits(logits, true, valid.to(logits.dtype), reduction="sum")
        # Windows with ignored pixels are kept; both maps are near 0 at ignored pixels.
        predicted = logits.sigmoid().where(valid, 0) + 1e-6
        return bce, _information(self._pooled(predicted), self._pooled(true))

    def _pooled(self, maps: Tensor) -> Tensor:
        padding = self.kernel_size // 2
        if self.pooling == "max":
            return F.max_pool2d(maps, self.kernel_size, self.stride, padding)
        return F.avg_pool2d(maps, self.kernel_size, self.stride, padding)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"pooling={self.pooling!r}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ignore_index={self.ignore_index}"
        )


def _information(predicted: Tensor, true: Tensor) -> Tensor:
    """The sum over classes of log det(...) / 18 of an image's pooled maps (1, C, h, w), see :class:`RMILoss`."""
    classes, area = true.shape[1], SIDE * SIDE
    maps = torch.stack([predicted, true], dim=2).flatten(1, 2).double()  # (1, 2C, h, w), both maps of a class adjacent
    vectors = F.unfold(maps, SIDE).view(classes, 2 * area, -1)  # (C, 18, N)
    mean = vectors.mean(dim=2, keepdim=True)
    scatter = vectors @ vectors.mT - vectors.shape[2] * mean @ mean.mT
    # The last block of the factor is the factor of the conditional covariance. `cholesky` would wait for the device.
    identity = torch.eye(2 * area, dtype=scatter.dtype, device=scatter.device)
    factor, failed = torch.linalg.cholesky_ex(scatter + ALPHA * identity)
    diagonal = factor.diagonal(dim1=1, dim2=2)[:, area:]  # (C, 9)
    information = (diagonal + 1e-8).log().sum() / area
    return information.where((failed == 0).all(), torch.nan).to(true.dtype)
