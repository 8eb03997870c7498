"""The squared errors of CPG over runs of boundary pixels, and their gradient."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cpg import integer_kernel
from .boundary import Boundary
from .buffer import RowBuffer


@dataclass
class Entries:
    r"""The part :math:`p_c g_c` of CPG's gradient, for single logits.

    Attributes:
        index: Index of each logit in a :class:`~.buffer.RowBuffer`, (k, L).
        row: Row of each logit, (k, L).
        value: Gradient of each logit, (k, L).
        stop: The row after the last row.
    """

    index: Tensor
    row: Tensor
    value: Tensor
    stop: int

    def before(self, row: int) -> "Entries":
        """The entries in the rows before ``row``."""
        if self.stop <= row:
            return self
        return Entries(self.index, self.row, self.value.masked_fill(self.row >= row, 0), row)

    def after(self, row: int) -> "Entries":
        """The entries in ``row`` and the following rows."""
        return Entries(self.index, self.row, self.value.masked_fill(self.row < row, 0), self.stop)


class BoundaryErrors:
    """Predicted gradients minus target gradients, at the boundary entries.

    Args:
        boundary: The boundary of a batch.
        kernel_size: Side of the windows, k.
        size: Height and width of the images.
        cpg_weight: Factor of the gradient.
        most: Largest number of window values that are computed together.
        like: A tensor with the device and the dtype of the computation.
    """

    def __init__(
        self, boundary: Boundary, kernel_size: int, size: tuple[int, int], cpg_weight: float, most: int, like: Tensor
    ) -> None:
        self.boundary, self.kernel_size, self.radius = boundary, kernel_size, kernel_size // 2
        self.height, self.width = size
        self.offset = torch.arange(-self.radius, self.radius + 1, device=like.device)[:, None]
        # Index of the pixel in the same column of the image's first row.
        self.pixel = torch.add(boundary.column, boundary.image, alpha=self.height * self.width)
        _, denominator = integer_kernel(kernel_size)
        kernel, self.true = (each.to(like.dtype) / denominator for each in (boundary.kernel, boundary.gradient))
        self.entries = boundary.entries().clamp_(min=1).to(like.dtype)
        kernel = kernel.view(2, kernel_size, kernel_size)  # (direction, row, column)
        self.kernel = kernel.transpose(1, 2).reshape(2 * kernel_size, kernel_size)
        adjoint = kernel.flip(2).transpose(0, 1).reshape(kernel_size, 2 * kernel_size)
        self.adjoint = adjoint * (2 * cpg_weight / self.entries)
        self.most = max(kernel_size, most // kernel_size**2)
        self.squares = like.new_zeros(())

    def mean(self) -> Tensor:
        """The mean of the squared errors that were added."""
        return self.squares / self.entries

    def accumulate_runs(
        self, runs: slice, stop: int, buffer: RowBuffer, inverse: Tensor, factor: Tensor
    ) -> list[Entries]:
        r"""Add the errors of some runs, and subtract :math:`\langle g, p \rangle` from the factor of each pixel.

        Args:
            runs: Pixels of the boundary's runs; the buffer contains their windows.
            stop: The row after the windows.
            buffer: Exponentials of the logits.
            inverse: Reciprocal of the sum of the exponentials over the classes, (B, H, W).
            factor: Factor of the probabilities in the gradient, (B, H, W).

        Returns:
            The part :math:`p_c g_c` of the gradient.
        """
        # Windows overlap, so consecutive parts overlap by one radius on both sides.
        firsts = range(runs.start, runs.stop - 2 * self.radius, self.most)
        parts = [slice(first, min(first + self.most + 2 * self.radius, runs.stop)) for first in firsts]
        return [self._accumulate_part(part, stop, buffer, inverse, factor) for part in parts]

    def _accumulate_part(self, runs: slice, stop: int, buffer: RowBuffer, inverse: Tensor, factor: Tensor) -> Entries:
        boundary, size, length = self.boundary, self.kernel_size, runs.stop - runs.start
        inner = slice(runs.start + self.radius, runs.stop - self.radius)
        row = (boundary.row[runs] + self.offset).clamp_(0, self.height - 1)  # (k, L)
        index = buffer.index(boundary.image[runs], boundary.class_index[runs], row, boundary.column[runs])
        pixel = torch.add(self.pixel[runs], row, alpha=self.width).view(-1)
        probability = buffer.select(index) * inverse.view(-1).index_select(0, pixel).view(index.shape)
        # The columns of a window lie on a diagonal of their sums over rows, so that no window is copied.
        sums = self.kernel @ probability  # (2 * k, L)
        diagonals = sums.as_strided((2, size, inner.stop - inner.start), (size * length, length + 1, 1))
        true = self.true[:, inner]
        error = diagonals.sum(dim=1).sub_(true).masked_fill_(true == 0, 0)  # (2, L - 2 * radius)
        self.squares += error.flatten().dot(error.flatten())
        # Entry (direction, i, j) is the error of the window whose column k - 1 - i is pixel j.
        shifted = F.pad(error, (2 * self.radius, 2 * self.radius)).unfold(1, length, 1)  # (2, k, L)
        value = self.adjoint @ shifted.reshape(2 * size, length)  # first g, then p_c g_c
        value *= probability
        factor.view(-1).index_add_(0, pixel, value.view(-1), alpha=-1)
        return Entries(index, row, value, stop)
