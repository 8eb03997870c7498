"""Memory for consecutive rows of images, which are computed, used and discarded in order."""

import torch
from torch import Tensor


class RowBuffer:
    """Consecutive rows of N images.

    Single values are addressed by one flat index, which is several times as fast as three indices.

    Args:
        memory: Memory for the rows, (N, C, rows, W), with contiguous columns.
        first_image: Index of the first image in the memory.
        moves: Whether discarding rows moves the remaining rows to the front of the memory. If not, the memory holds all
            rows.
    """

    def __init__(self, memory: Tensor, first_image: int, moves: bool) -> None:
        self.memory, self.first_image, self.moves = memory, first_image, moves
        self.first = 0  # index of the first row in the memory

    def rows(self, rows: slice) -> Tensor:
        """A view of some rows, (N, C, rows, W)."""
        return self.memory[:, :, rows.start - self.first : rows.stop - self.first]

    def index(self, image: Tensor, class_index: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """The index of single values, for :meth:`select` and :meth:`accumulate_entries`; the arguments broadcast."""
        by_image, by_class, by_row, _ = self.memory.stride()
        index = torch.add(column, class_index, alpha=by_class)
        if len(self.memory) > 1:
            index = torch.add(index, image, alpha=by_image)
            if self.first_image:
                index -= self.first_image * by_image
        return torch.add(index, row, alpha=by_row)

    def select(self, index: Tensor) -> Tensor:
        """Single values of rows in the buffer, in the shape of ``index``."""
        return self._flat().index_select(0, self._place(index)).view(index.shape)

    def accumulate_entries(self, index: Tensor, value: Tensor, alpha: int = 1) -> None:
        """Add ``alpha`` times single values to rows in the buffer. Values for discarded rows must be 0."""
        self._flat().index_add_(0, self._place(index), value.reshape(-1), alpha=alpha)

    def discard(self, row: int, stop: int) -> None:
        """Discard all rows before ``row``; the rows from ``row`` to ``stop`` are kept."""
        if self.moves:
            kept = self.rows(slice(row, stop)).clone()
            self.memory[:, :, : stop - row] = kept
            self.first = row

    def _flat(self) -> Tensor:
        """The memory as one dimension, from its first element to its last, including gaps."""
        extent = 1 + sum((size - 1) * step for size, step in zip(self.memory.shape, self.memory.stride(), strict=True))
        return self.memory.as_strided((extent,), (1,))

    def _place(self, index: Tensor) -> Tensor:
        index = index.reshape(-1)
        return (index - self.first * self.memory.stride(2)).clamp_(min=0) if self.first else index
