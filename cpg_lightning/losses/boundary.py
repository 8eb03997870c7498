"""Where one image's labels change: the pixels and classes that CPG compares, in exact integers."""

import math

import torch
from torch import Tensor

from cpg_lightning.losses.cpg import integer_kernel, replicate

NO_CLASS = torch.iinfo(torch.int16).max


class Boundary:
    """The boundary entries of one image, sparse.

    A window holds more than one label at few pixels, and there the gradient of the one-hot target is not zero for the
    labels in it alone. So for each such window the lowest and the highest label are looked at, and where those are not
    all of it, the next lowest, until none is left.

    Args:
        target: Classes or ``ignore_index``, int64, (H, W).
        kernel_size: See :class:`~cpg_lightning.CPGLoss`, as the two that follow.
        ignore_index: Target value that is no class.
        void_borders: Whether windows with ignored pixels count.

    The pairs (pixel, class) that this finds lie side by side along boundaries, and so do their windows. They are kept as
    *lines*: horizontal runs of pixels of one class, each half a window longer than its pairs on both sides. So a window
    is some neighbours of a line in as many rows, and neighbouring windows share all but one of them.

    Attributes:
        rows: Row of each pixel of the lines, ascending, (L).
        columns: Its column, clamped to the image, (L).
        classes: Class of the line, (L).
        gradient: The target's gradient times the denominator of the kernel, horizontal and vertical: integers, stored as
            floating point, and 0 where the pixel is no pair with the class, (2, L).
    """

    def __init__(self, target: Tensor, kernel_size: int, ignore_index: int, void_borders: bool) -> None:
        radius = kernel_size // 2
        valid = target != ignore_index
        labels = target.where(valid, NO_CLASS).to(torch.int16)
        centres = _holds_two_labels(labels, radius) & valid
        if not void_borders:
            centres &= ~_reach(~valid, radius)
        y, x = centres.nonzero(as_tuple=True)
        # The sums of integer weights are exact in float32 up to size 9.
        dtype = torch.float64 if kernel_size > 9 else torch.float32
        windows = _windows(labels, y, x, kernel_size).T.to(dtype, memory_format=torch.contiguous_format)
        window, classes, gradient = _pairs(windows)

        # A pair's window as one number: row, class and first column, of an image with room for windows at its edge.
        width = target.shape[1] + 2 * radius
        key = (y.index_select(0, window) * NO_CLASS + classes) * width + x.index_select(0, window)
        first, order = key.sort()
        # Of each window, the columns that the next does not share.
        unshared = first.diff(append=first[-1:] + kernel_size).clamp(max=kernel_size)
        start = unshared.cumsum(0) - unshared
        pixel = torch.repeat_interleave(first - start, unshared)
        pixel += torch.arange(len(pixel), device=pixel.device)
        self.columns = (pixel % width - radius).clamp(0, target.shape[1] - 1)
        pixel //= width
        self.rows, self.classes = pixel // NO_CLASS, pixel % NO_CLASS
        self.gradient = gradient.new_zeros(2, len(pixel))
        self.gradient.index_copy_(1, start + radius, gradient.index_select(1, order))

    def entries(self) -> Tensor:
        """How many entries (pixel, class, direction) there are."""
        return (self.gradient != 0).sum()

    def starts(self, rows: list[int]) -> list[int]:
        """For each row: the first pixel of a line in it or after it."""
        return torch.searchsorted(self.rows, torch.tensor(rows, device=self.rows.device)).tolist()


def kernel_rows(kernel_size: int, like: Tensor) -> Tensor:
    """The integer kernel and its transpose, (2, k * k): times windows (k * k, N) they are their gradients."""
    kernel = torch.tensor(integer_kernel(kernel_size)[0], dtype=like.dtype, device=like.device)
    return torch.stack([kernel.flatten(), kernel.T.flatten()])


def _windows(labels: Tensor, y: Tensor, x: Tensor, kernel_size: int) -> Tensor:
    """The windows around some pixels (N) of a plane (H, W) replicated at its edges, (N, k * k)."""
    radius = kernel_size // 2
    padded = replicate(replicate(labels, radius, dim=1), radius, dim=0)
    start = y * padded.shape[1] + x
    rows = start[:, None] + torch.arange(kernel_size, device=y.device) * padded.shape[1]
    # A row of a window is contiguous: copied at once, several times as fast as pixel by pixel.
    return padded.flatten().unfold(0, kernel_size, 1).index_select(0, rows.flatten()).view(-1, kernel_size**2)


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From windows of labels (k * k, N): window (P), class (P) and gradient (2, P) where it is not zero."""
    kernel = kernel_rows(math.isqrt(len(labels)), labels)
    kernel = torch.cat([kernel, torch.ones_like(kernel[:1])])  # the last row counts
    window = torch.arange(labels.shape[1], device=labels.device)
    pairs, classes, gradients = [window[:0]], [window[:0]], [kernel.new_zeros(2, 0)]
    while len(window):
        is_class = torch.empty_like(labels)
        lowest, highest = labels.amin(dim=0), labels.amax(dim=0)  # together, as aminmax, they take far longer
        counted = torch.zeros_like(lowest)
        for label in (lowest, highest):
            # Written as floating point: converting a bool costs several times as much.
            *gradient, count = kernel @ torch.eq(labels, label, out=is_class)
            counted += count
            found = ((gradient[0] != 0) | (gradient[1] != 0)) & (label < NO_CLASS)
            found = found.nonzero()[:, 0]
            pairs.append(window.index_select(0, found))
            classes.append(label.index_select(0, found).long())
            gradients.append(torch.stack(gradient).index_select(1, found))
        more = (counted < len(labels)).nonzero()[:, 0]
        window, labels = window.index_select(0, more), labels.index_select(1, more)
        between = (labels > lowest.index_select(0, more)) & (labels < highest.index_select(0, more))
        labels = labels.where(between, NO_CLASS)
    return torch.cat(pairs), torch.cat(classes), torch.cat(gradients, dim=1)


def _holds_two_labels(labels: Tensor, radius: int) -> Tensor:
    """Whether the window around each pixel holds more than one label, (H, W)."""
    differs = torch.zeros_like(labels, dtype=torch.bool)
    for dim in range(2):
        # The edge between a pixel and the next lies in the windows of both, and of those up to radius - 1 further.
        length = labels.shape[dim]
        if length < 2:
            continue
        edge = labels.narrow(dim, 1, length - 1) != labels.narrow(dim, 0, length - 1)
        near = torch.zeros_like(differs)
        for offset in range(-radius, radius):
            start, stop = max(0, -offset), min(length, length - 1 - offset)
            if start < stop:
                near.narrow(dim, start, stop - start).logical_or_(edge.narrow(dim, start + offset, stop - start))
        differs |= _reach_along(near, radius, 1 - dim)
    return differs


def _reach(mask: Tensor, radius: int) -> Tensor:
    """Whether the window around each pixel holds a pixel of the mask, (H, W)."""
    return _reach_along(_reach_along(mask, radius, 0), radius, 1)


def _reach_along(mask: Tensor, radius: int, dim: int) -> Tensor:
    reached, length = mask.clone(), mask.shape[dim]
    for offset in range(1, min(radius, length - 1) + 1):
        reached.narrow(dim, offset, length - offset).logical_or_(mask.narrow(dim, 0, length - offset))
        reached.narrow(dim, 0, length - offset).logical_or_(mask.narrow(dim, offset, length - offset))
    return reached
