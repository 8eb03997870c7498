"""The Convolution-based Probability Gradient (CPG) loss: the reference implementation."""

from fractions import Fraction
from functools import cache
from math import lcm

import torch
from torch import Tensor, nn

from .target import checked_target


class CPGLoss(nn.Module):
    r"""Mean squared difference between the gradients of predicted and true class probabilities, at boundaries only.

    Let :math:`p` be the softmax of the logits over the classes and :math:`g` the one-hot target, zero at ignored
    pixels. The kernel :math:`K[\Delta y, \Delta x] = \Delta x / (\Delta x^2 + \Delta y^2)`, zero in its centre, is
    cross-correlated with each class map of both, with replicate padding. The transposed kernel gives the vertical
    direction:

    .. math::
        P = K \star p, \qquad G = K \star g, \qquad
        \mathcal{L} = \frac{1}{|\mathcal{B}|} \sum_{\mathcal{B}} (P - G)^2

    The boundary :math:`\mathcal{B}` contains the entries (image, class, direction, pixel) where the pixel is not
    ignored and :math:`G \neq 0`. :math:`G` is computed in exact integers. The class of a line of one pixel, for
    example, has boundary entries beside the line and none on it. The mean is over the entries of this call, thus of one
    process and one micro-batch, as in ``F.cross_entropy``. Without boundary entries, the loss and its gradient are 0.

    Half-precision logits are converted to float32. The squared response to a straight step grows with the kernel size
    (4, 17.6 and 41.4 for sizes 3, 5 and 7), so each size needs its own loss weight.

    Args:
        kernel_size: Side of the kernel in pixels, odd, 3 to 15. 3 is the Sobel kernel divided by 2.
        ignore_index: Target value of ignored pixels; any integer.
        void_borders: Whether to keep entries whose window contains an ignored pixel, as the paper's code does. No
            softmax reaches the target's gradient there, because the one-hot target is zero at ignored pixels.

    Shape:
        - logits: :math:`(B, C, H, W)`, floating point, at the size of the target
        - target: :math:`(B, H, W)`, integer, classes :math:`0..C-1` or ``ignore_index``
        - output: scalar, float32, or float64 for float64 logits

    Raises:
        ValueError: If the kernel size is even or out of range, and, in the forward pass, for other shapes, dtypes or
            target values. Target values are checked on the CPU only: on a GPU the check would force a synchronisation.

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
            "CrossEntropyCPGLoss, which upsamples them"
        )
    if logits.element_size() < 4:
        logits = logits.float()
    integer_gradient, boundary = boundary_entries(target, logits.shape[1], kernel_size, ignore_index, void_borders)
    _, denominator = integer_kernel(kernel_size)
    true_gradient = integer_gradient.to(logits.dtype) / denominator  # (B, C, 2, H, W)
    gradient = probability_gradient(logits.softmax(dim=1), kernel_size)  # (B, C, 2, H, W)
    # Indexing with the mask would synchronise with the device. Multiplying by the mask would keep NaN outside it.
    error = (gradient - true_gradient).where(boundary, 0)
    return error.square().sum() / boundary.sum().clamp(min=1)


def probability_gradient(probabilities: Tensor, kernel_size: int = 3) -> Tensor:
    """Horizontal and vertical gradient of each class map.

    Args:
        probabilities: Class maps, floating point, (B, C, H, W).
        kernel_size: See :class:`CPGLoss`.

    Returns:
        Gradients (B, C, 2, H, W), horizontal first, then vertical; float32 or float64.

    Raises:
        ValueError: If the kernel size is even or out of range.

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
    """The gradient of the one-hot target in exact integers, and the mask of its boundary entries.

    Args:
        target: Classes or ``ignore_index``, int64, (B, H, W).
        num_classes: Number of classes C.
        kernel_size: See :class:`CPGLoss`.
        ignore_index: See :class:`CPGLoss`.
        void_borders: See :class:`CPGLoss`.

    Returns:
        The gradient of the one-hot target times the denominator of :func:`integer_kernel`, in the smallest sufficient
        integer type, and the boundary, bool. Both are (B, C, 2, H, W).

    Raises:
        ValueError: If there are fewer than 2 classes, or the kernel size is even or out of range.

    Example:
        >>> import torch
        >>> line = torch.tensor([[[0, 0, 1, 0, 0]]])
        >>> _, boundary = boundary_entries(line, num_classes=2)
        >>> boundary[0, 1, 0].int()  # class 1, horizontal: the neighbours of the line
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
        Integers (k rows of k) and their common denominator: K = integers / denominator.

    Raises:
        ValueError: If the kernel size is even or out of range.

    Example:
        >>> integer_kernel(3)
        ([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], 2)
    """
    # For sizes of 17 or more, the common denominator exceeds 64 bits.
    if not isinstance(kernel_size, int) or kernel_size % 2 == 0 or not 3 <= kernel_size <= 15:
        raise ValueError(f"expected kernel_size to be an odd number of pixels from 3 to 15, got {kernel_size!r}")
    offsets = range(-(kernel_size // 2), kernel_size // 2 + 1)
    kernel = [[Fraction(dx, dx * dx + dy * dy) if dx else Fraction() for dx in offsets] for dy in offsets]
    denominator = lcm(*(weight.denominator for row in kernel for weight in row))
    return [[int(weight * denominator) for weight in row] for row in kernel], denominator


def _integer_gradient(maps: Tensor, kernel_size: int) -> Tensor:
    """Cross-correlation with the integer kernel and its transpose, exact for integers: (B, C, H, W) -> (B, C, 2, H, W).

    Sums of shifted maps replace the convolution: they are exact for integers on every device and backend.
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
            difference = ahead - behind  # still padded across the direction
            for row in range(kernel_size):
                weight = kernel[row][radius + offset]
                gradient = gradient + weight * difference.narrow(across, row, size_across)
        return gradient

    return torch.stack([one_direction(-1, width, -2, height), one_direction(-2, height, -1, width)], dim=2)


def replicate(maps: Tensor, radius: int, dim: int) -> Tensor:
    """Replicate padding of one dimension. Unlike ``F.pad``, it supports integers."""
    sizes = list(maps.shape)
    sizes[dim] = radius
    first, last = maps.narrow(dim, 0, 1), maps.narrow(dim, maps.shape[dim] - 1, 1)
    return torch.cat([first.expand(sizes), maps, last.expand(sizes)], dim=dim)
