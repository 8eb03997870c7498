"""The Convolution-based Probability Gradient (CPG) loss, by its definition."""

from fractions import Fraction
from functools import cache
from math import lcm

import torch
from torch import Tensor, nn

from .target import checked_target


class CPGLoss(nn.Module):
    r"""Squared difference between the gradients of predicted and of true class probabilities, at boundaries only.

    With :math:`p` the softmax of the logits over the classes and :math:`g` the one-hot target (all zeros where it is
    ignored), an odd kernel :math:`K[\Delta y, \Delta x] = \Delta x / (\Delta x^2 + \Delta y^2)`, zero in its centre, is
    cross-correlated with both, class by class, with replicate padding; its transpose gives the vertical direction:

    .. math::
        P = K \star p, \qquad G = K \star g, \qquad
        \mathcal{L} = \frac{1}{|\mathcal{B}|} \sum_{\mathcal{B}} (P - G)^2

    The boundary :math:`\mathcal{B}` holds the entries (image, class, direction, pixel) of a pixel that is not ignored
    and where :math:`G \neq 0`, decided in integers: a one-pixel line, say, has no boundary entry on itself. The mean is
    over the entries of this call, hence of one process and one micro-batch, as with ``F.cross_entropy``. Without any
    boundary entry the loss is 0 and so is its gradient.

    Half-precision logits are computed in float32. The squared response to a straight step grows with the kernel (4, 17.6
    and 41.4 for sizes 3, 5 and 7), so a weight chosen for one size does not carry over to another.

    Args:
        kernel_size: Side of the kernel in pixels, odd, 3 to 15. 3 is the Sobel kernel divided by 2.
        ignore_index: Target value that is no class; any integer.
        void_borders: Next to an ignored region the target's gradient is that of a boundary against nothing, which no
            softmax can reach. ``True`` keeps those entries, as the paper's code does; ``False`` drops every entry
            whose window touches an ignored pixel.

    Shape:
        - logits: :math:`(B, C, H, W)`, floating point, at label size
        - target: :math:`(B, H, W)`, integer, classes :math:`0..C-1` or ``ignore_index``
        - output: scalar, in float32, or float64 for float64 logits

    Raises:
        ValueError: If the kernel size is not odd or out of range, and, in the forward pass, for shapes, dtypes or
            target values other than above. Target values are checked on the CPU only: on a GPU the check would force a
            synchronisation.

    Source: Shan and Jia, "Convolution-based Probability Gradient Loss for Semantic Segmentation", arXiv 2404.06704.

    Example:
        >>> import torch
        >>> from cpg_lightning import CPGLoss
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> target = torch.tensor([[[0, 0, 1, 1]] * 4])
        >>> loss = CPGLoss()(logits, target)
        >>> loss
        tensor(4., grad_fn=<DivBackward0>)
        >>> loss.backward()
    """

    def __init__(self, kernel_size: int = 3, ignore_index: int = 255, void_borders: bool = True) -> None:
        super().__init__()
        integer_kernel(kernel_size)
        self.kernel_size = kernel_size
        self.ignore_index = ignore_index
        self.void_borders = void_borders

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See :func:`cpg_loss`."""
        return cpg_loss(logits, target, self.kernel_size, self.ignore_index, self.void_borders)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"kernel_size={self.kernel_size}, ignore_index={self.ignore_index}, void_borders={self.void_borders}"


def cpg_loss(
    logits: Tensor, target: Tensor, kernel_size: int = 3, ignore_index: int = 255, void_borders: bool = True
) -> Tensor:
    """The CPG loss as a function; see :class:`CPGLoss` for the formula, the arguments and the errors."""
    target = checked_target(logits, target, ignore_index)
    if logits.shape[-2:] != target.shape[-2:]:
        raise ValueError(
            f"expected logits at the size of the target, {tuple(target.shape[-2:])} pixels, got "
            f"{tuple(logits.shape[-2:])}; upsample them with torch.nn.functional.interpolate, or use "
            "CrossEntropyCPGLoss, which does"
        )
    if logits.element_size() < 4:
        logits = logits.float()
    integer_gradient, boundary = boundary_entries(target, logits.shape[1], kernel_size, ignore_index, void_borders)
    _, denominator = integer_kernel(kernel_size)
    true_gradient = integer_gradient.to(logits.dtype) / denominator  # (B, C, 2, H, W)
    gradient = probability_gradient(logits.softmax(dim=1), kernel_size)  # (B, C, 2, H, W)
    # Indexing with the mask would force a synchronisation of the device. A product with it would keep a NaN.
    error = (gradient - true_gradient).where(boundary, 0)
    return error.square().sum() / boundary.sum().clamp(min=1)


def probability_gradient(probabilities: Tensor, kernel_size: int = 3) -> Tensor:
    """Horizontal and vertical gradient of each class map.

    Args:
        probabilities: Class maps, floating point, (B, C, H, W).
        kernel_size: See :class:`CPGLoss`.

    Returns:
        Gradients (B, C, 2, H, W): the horizontal ones first, then the vertical ones; in float32 at least.

    Raises:
        ValueError: If the kernel size is not odd or out of range.

    Example:
        >>> import torch
        >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 3, 4)
        >>> probability_gradient(step)[0, 0, :, 1]
        tensor([[0., 2., 2., 0.],
                [0., 0., 0., 0.]])
    """
    _, denominator = integer_kernel(kernel_size)
    if probabilities.element_size() < 4:  # the integer weights of large kernels overflow float16
        probabilities = probabilities.float()
    return _integer_gradient(probabilities, kernel_size) / denominator


def boundary_entries(
    target: Tensor, num_classes: int, kernel_size: int = 3, ignore_index: int = 255, void_borders: bool = True
) -> tuple[Tensor, Tensor]:
    """The target's gradient in exact integers, and which of its entries belong to the boundary.

    Args:
        target: Classes or ``ignore_index``, int64, (B, H, W).
        num_classes: Number of classes C.
        kernel_size: See :class:`CPGLoss`.
        ignore_index: See :class:`CPGLoss`.
        void_borders: See :class:`CPGLoss`.

    Returns:
        The gradient of the one-hot target times the denominator of :func:`integer_kernel`, in the smallest integers
        that hold it, and the boundary, bool: both (B, C, 2, H, W).

    Raises:
        ValueError: If there are fewer than 2 classes, or the kernel size is not odd or out of range.

    Example:
        >>> import torch
        >>> line = torch.tensor([[[0, 0, 1, 0, 0]]])
        >>> _, boundary = boundary_entries(line, num_classes=2)
        >>> boundary[0, 1, 0].int()  # class 1, horizontal: both neighbours of the line, not the line
        tensor([[0, 1, 0, 1, 0]], dtype=torch.int32)
    """
    if num_classes < 2:
        raise ValueError(f"expected 2 or more classes, got {num_classes}; name the background as a class")
    kernel, _ = integer_kernel(kernel_size)
    largest = sum(abs(weight) for row in kernel for weight in row)
    dtype = next(d for d in (torch.int8, torch.int16, torch.int32, torch.int64) if largest <= torch.iinfo(d).max)
    valid = target != ignore_index  # (B, H, W)
    classes = torch.arange(num_classes, device=target.device).view(1, -1, 1, 1)
    one_hot = (target.unsqueeze(1) == classes) & valid.unsqueeze(1)  # (B, C, H, W)
    gradient = _integer_gradient(one_hot.to(dtype), kernel_size)
    if not void_borders:
        ignored = (~valid).unsqueeze(1).float()  # (B, 1, H, W)
        touched = torch.nn.functional.max_pool2d(ignored, kernel_size, stride=1, padding=kernel_size // 2)
        valid = touched[:, 0] == 0
    boundary = (gradient != 0) & valid[:, None, None]  # (B, C, 2, H, W)
    return gradient, boundary


@cache
def integer_kernel(kernel_size: int) -> tuple[list[list[int]], int]:
    """The horizontal kernel in exact integers.

    Args:
        kernel_size: See :class:`CPGLoss`.

    Returns:
        Integers (rows of k) and their common denominator: K = integers / denominator.

    Raises:
        ValueError: If the kernel size is not odd or out of range.

    Example:
        >>> integer_kernel(3)
        ([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], 2)
    """
    # From 17 on the common denominator does not fit 64 bits.
    if not isinstance(kernel_size, int) or kernel_size % 2 == 0 or not 3 <= kernel_size <= 15:
        raise ValueError(f"expected kernel_size to be an odd number of pixels from 3 to 15, got {kernel_size!r}")
    offsets = range(-(kernel_size // 2), kernel_size // 2 + 1)
    kernel = [[Fraction(dx, dx * dx + dy * dy) if dx else Fraction() for dx in offsets] for dy in offsets]
    denominator = lcm(*(weight.denominator for row in kernel for weight in row))
    return [[int(weight * denominator) for weight in row] for row in kernel], denominator


def _integer_gradient(maps: Tensor, kernel_size: int) -> Tensor:
    """Cross-correlation with the integer kernel and its transpose, exact for integers: (B, C, H, W) -> (B, C, 2, H, W).

    Sums of shifted maps, not a convolution: exact in any dtype, on any device and with any backend.
    """
    kernel, _ = integer_kernel(kernel_size)
    radius = kernel_size // 2
    padded = replicate(replicate(maps, radius, dim=-1), radius, dim=-2)
    height, width = maps.shape[-2:]

    def one_direction(along: int, size_along: int, across: int, size_across: int) -> Tensor:
        gradient = torch.zeros_like(maps)
        for offset in range(1, radius + 1):
            ahead = padded.narrow(along, radius + offset, size_along)
            behind = padded.narrow(along, radius - offset, size_along)
            difference = ahead - behind  # padded across the direction still
            for row in range(kernel_size):
                weight = kernel[row][radius + offset]
                gradient = gradient + weight * difference.narrow(across, row, size_across)
        return gradient

    return torch.stack([one_direction(-1, width, -2, height), one_direction(-2, height, -1, width)], dim=2)


def replicate(maps: Tensor, radius: int, dim: int) -> Tensor:
    """Replicate padding of one dimension, for integers too, which ``F.pad`` refuses."""
    sizes = list(maps.shape)
    sizes[dim] = radius
    first, last = maps.narrow(dim, 0, 1), maps.narrow(dim, maps.shape[dim] - 1, 1)
    return torch.cat([first.expand(sizes), maps, last.expand(sizes)], dim=dim)
