"""The boundary entries of a batch of label maps in exact integers: the pixels and classes that CPG compares."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cpg import integer_kernel, replicate

NO_CLASS = torch.iinfo(torch.int16).max


class Boundary:
    r"""The boundary entries of a batch, as a sparse list of horizontal runs of pixels.

    Few windows contain more than one label. In these windows, the gradient of the one-hot target is nonzero only for
    labels in the window. Each such pair (pixel, class) needs the class's probabilities in the window around the pixel.
    Pairs are adjacent along boundaries, and their windows overlap. The pixels of each class are therefore stored as
    *runs*, which extend the pairs by half a window on both sides. For a kernel of size 3::

        labels of one row        0 0 0 0 1 1 1 1 1 0 0 0
        pairs with class 1             p p       p p
        runs of class 1              r r r r   r r r r
                                     |     |
                                     \_____/  a window is 3 neighbours of a run, in 3 rows

    Args:
        target: Classes or ``ignore_index``, int64, (B, H, W).
        kernel_size: See :class:`~cpg_lightning.CPGLoss`.
        ignore_index: See :class:`~cpg_lightning.CPGLoss`.
        void_borders: See :class:`~cpg_lightning.CPGLoss`.
        first_rows: First row of each part of the batch, ascending, counted over all images in order (0 to B * H), (S).

    Attributes:
        starts: For each of ``first_rows``, the index of the first run pixel in this row or a later one. S numbers.
        image: Image of each pixel of the runs, (L).
        row: Row of each pixel in its image, (L).
        column: Column of each pixel, clamped to the image, (L).
        class_index: Class of each pixel's run, (L).
        gradient: The target's gradient times the denominator of the kernel, horizontal and vertical, (2, L): integers
            as floating point, 0 where pixel and class are not a pair.
        kernel: The integer kernel and its transpose, int64, (2, k * k).

    On an accelerator, the constructor waits for the device four times: for the number of windows with several labels,
    for the number with three or more labels, for the number of pairs, and for ``starts``.
    """

    def __init__(
        self, target: Tensor, kernel_size: int, ignore_index: int, void_borders: bool, first_rows: Tensor
    ) -> None:
        radius, (height, width) = kernel_size // 2, target.shape[1:]
        ignored = target == ignore_index
        labels = target.masked_fill(ignored, NO_CLASS).to(torch.int16)
        padded = replicate(replicate(labels, radius, dim=2), radius, dim=1)
        lowest, highest = (_extreme(padded, kernel_size, choose) for choose in (torch.minimum, torch.maximum))
        is_centre = (lowest != highest) & ~ignored
        if not void_borders:
            is_centre &= highest < NO_CLASS
        centre = is_centre.view(-1).nonzero()[:, 0]
        extremes = torch.stack([each.view(-1).index_select(0, centre) for each in (lowest, highest)])
        row = torch.div(centre, width, rounding_mode="floor")  # counted over all images in order
        column, image = torch.sub(centre, row, alpha=width), torch.div(row, height, rounding_mode="floor")
        self.kernel = _kernel_rows(kernel_size, target.device)
        pair, classes, gradient = _pairs(_windows(padded, image, row, column, kernel_size), extremes, self.kernel)

        # The window of each pair as one number: row, class and first column in the padded image.
        padded_width = width + 2 * radius
        window = torch.add(column, row, alpha=NO_CLASS * padded_width)
        key, order = torch.add(window.index_select(0, pair), classes, alpha=padded_width).sort()
        # The number of columns of each window that the next window does not share.
        unshared = key.diff(append=key[-1:] + kernel_size).clamp_(max=kernel_size)
        stop = key.new_zeros(len(key) + 1)
        torch.cumsum(unshared, 0, out=stop[1:])
        first_pairs = torch.searchsorted(key, first_rows * (NO_CLASS * padded_width))
        self.starts: list[int] = stop.index_select(0, first_pairs).tolist()
        start, length = stop[:-1], self.starts[-1]
        pixel = torch.repeat_interleave(key - start, unshared, output_size=length)
        pixel += torch.arange(length, device=pixel.device)
        self.column = (pixel % padded_width).sub_(radius).clamp_(0, width - 1)
        pixel = torch.div(pixel, padded_width, rounding_mode="floor")
        self.class_index, pixel = pixel % NO_CLASS, torch.div(pixel, NO_CLASS, rounding_mode="floor")
        self.row, self.image = pixel % height, torch.div(pixel, height, rounding_mode="floor")
        self.gradient = gradient.new_zeros(2, length)
        self.gradient.index_add_(1, start + radius, gradient.index_select(1, order))

    @classmethod
    def joined(cls, parts: Sequence["Boundary"], images: int) -> "Boundary":
        """The boundary of a batch, from the boundaries of its successive parts.

        Args:
            parts: The boundary of each part of the batch.
            images: Number of images in each part; the last part may have fewer.
        """
        first, *others = parts
        if others:
            first.image = torch.cat([part.image + index * images for index, part in enumerate(parts)])
            for name in ("row", "column", "class_index", "gradient"):
                setattr(first, name, torch.cat([getattr(part, name) for part in parts], dim=-1))
            for part in others:
                first.starts += [first.starts[-1] + start for start in part.starts[1:]]
        return first

    def entries(self) -> Tensor:
        """The number of entries (pixel, class, direction)."""
        return (self.gradient != 0).sum()


def _kernel_rows(kernel_size: int, device: torch.device) -> Tensor:
    """The integer kernel and its transpose, int64, (2, k * k).

    They are computed on the device, because a copy from the host would synchronise.
    """
    _, denominator = integer_kernel(kernel_size)
    offset = torch.arange(kernel_size, device=device) - kernel_size // 2
    squares = offset.square()
    kernel = torch.div(denominator * offset, (squares[:, None] + squares).clamp_(min=1), rounding_mode="floor")
    return torch.stack([kernel.view(-1), kernel.T.reshape(-1)])


def _extreme(padded: Tensor, size: int, choose: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The lowest or the highest label in the window around each pixel, (B, H, W), by doubling the window."""
    for dim in (1, 2):
        span = 1
        while span < size:
            shift = min(span, size - span)
            length = padded.shape[dim] - shift
            padded = choose(padded.narrow(dim, 0, length), padded.narrow(dim, shift, length))
            span += shift
    return padded


def _windows(padded: Tensor, image: Tensor, row: Tensor, column: Tensor, kernel_size: int) -> Tensor:
    """The windows around some pixels (N) in padded label maps, (N, k * k); ``row`` counts over all images in order."""
    padded_row, width = torch.add(row, image, alpha=kernel_size - 1), padded.shape[2]
    first = torch.add(column, padded_row, alpha=width)
    rows = first[:, None] + torch.arange(0, kernel_size * width, width, device=row.device)
    # Each row of a window is contiguous. Copying whole rows is several times as fast as copying single pixels.
    return padded.view(-1).unfold(0, kernel_size, 1).index_select(0, rows.view(-1)).view(-1, kernel_size**2)


def _pairs(windows: Tensor, extremes: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs (window, label) and the gradient of each.

    Args:
        windows: Labels, int16, (N, k * k).
        extremes: The lowest and the highest label of each window, int16, (2, N).
        kernel: The integer kernel and its transpose, int64, (2, k * k).

    Returns:
        The window index (P), class (P) and gradient (2, P) of each pair. A few gradients are zero.
    """
    size = windows.shape[1]
    # For kernels up to 9 x 9, sums of the kernel's integers are exact in float32.
    values = windows.T.to(torch.float64 if size > 81 else torch.float32, memory_format=torch.contiguous_format)
    lowest, highest = extremes.to(values.dtype)
    is_lowest = torch.eq(values, lowest, out=torch.empty_like(values))
    gradient = kernel.to(values.dtype) @ is_lowest
    covered = is_lowest.sum(dim=0) + torch.eq(values, highest, out=values).sum(dim=0)
    # Most windows have exactly two labels. Their gradients are opposite, because the kernel's weights sum to 0.
    has_two = covered == size
    is_pair = has_two & (extremes < NO_CLASS)
    # In the other windows, labels are sorted, and the weights are summed up to the end of each label's run.
    others = (~has_two).nonzero()[:, 0]
    ordered, order = windows.index_select(0, others).sort(dim=1)
    sums = kernel.index_select(1, order.view(-1)).view(2, *order.shape).cumsum(dim=2).view(2, -1)
    is_end = F.pad(ordered.diff(dim=1), (0, 1), value=1) != 0

    found = torch.cat([is_pair.view(-1), is_end.view(-1)]).nonzero()[:, 0]
    every = torch.arange(len(windows), device=windows.device)
    window = torch.cat([every, every, others.repeat_interleave(size, output_size=ordered.numel())])
    classes = torch.cat([extremes.view(-1), ordered.view(-1)]).index_select(0, found)
    gradient = torch.cat([gradient, -gradient, sums.to(gradient.dtype)], dim=1).index_select(1, found)
    # The gradient of a label is its sum minus the sum of the previous label. The last sum of a window is 0.
    is_sum = found >= extremes.numel()
    gradient = gradient - F.pad(gradient * is_sum, (1, 0))[:, :-1] * is_sum
    is_void = classes == NO_CLASS
    return window.index_select(0, found), classes.masked_fill(is_void, 0).long(), gradient.masked_fill_(is_void, 0)
