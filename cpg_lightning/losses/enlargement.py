"""Bilinear enlargement of logits in pieces, and its adjoint: full-resolution logits need never exist."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from cpg_lightning.losses.flat import flat_index, flat_view

BAND = 128  # columns enlarged by one matrix product: few enough that it holds few zeros


class Enlargement(ABC):
    """One image's logits at label size, some rows at a time, and the way back for their gradient.

    Rows are computed from the *wide* logits, of which only the columns have been enlarged, and given back to a gradient
    of the same shape.
    """

    in_place: bool  # whether rows of the wide gradient are rows of the gradient, to compute in

    @abstractmethod
    def widen(self, logits: Tensor) -> Tensor:
        """Logits (C, h, w) with their columns enlarged, rows first: (h, C, W)."""

    @abstractmethod
    def strip(self, wide: Tensor, rows: slice) -> Tensor:
        """Some rows of the enlarged logits, (rows, C, W)."""

    @abstractmethod
    def wide_gradient(self, gradient: Tensor) -> Tensor:
        """The wide gradient (h, C, W) with which to fill a gradient (C, h, w)."""

    @abstractmethod
    def give(self, wide: Tensor, strip: Tensor, rows: slice) -> None:
        """The adjoint of :meth:`strip`: bring the gradient of some rows down. Each row has to be given once."""

    @abstractmethod
    def add(self, wide: Tensor, rows: Tensor, classes: Tensor, columns: Tensor, values: Tensor) -> None:
        """Bring down some single entries, of rows that have been given.

        Args:
            wide: The wide gradient, (h, C, W).
            rows: (k, L)
            classes: (L)
            columns: (L)
            values: (k, L)
        """

    @abstractmethod
    def narrow(self, wide: Tensor, gradient: Tensor) -> None:
        """The adjoint of :meth:`widen`: write the gradient (C, h, w)."""


class NoEnlargement(Enlargement):
    """Of logits that are at label size already: the wide ones are views, and rows computed in them stay there."""

    in_place = True

    def widen(self, logits: Tensor) -> Tensor:  # noqa: D102
        return logits.permute(1, 0, 2)

    def strip(self, wide: Tensor, rows: slice) -> Tensor:  # noqa: D102
        return wide[rows]

    def wide_gradient(self, gradient: Tensor) -> Tensor:  # noqa: D102
        return gradient.permute(1, 0, 2)

    def give(self, wide: Tensor, strip: Tensor, rows: slice) -> None:  # noqa: D102
        pass

    def add(self, wide: Tensor, rows: Tensor, classes: Tensor, columns: Tensor, values: Tensor) -> None:  # noqa: D102
        flat_view(wide).index_add_(0, flat_index(wide, rows, classes, columns).view(-1), values.view(-1))

    def narrow(self, wide: Tensor, gradient: Tensor) -> None:  # noqa: D102
        pass


class BilinearEnlargement(Enlargement):
    """What ``F.interpolate(logits, size, mode="bilinear")`` does.

    Args:
        small: Height and width of the logits.
        large: Height and width they are enlarged to.
        align_corners: As in ``torch.nn.functional.interpolate``.
        like: A tensor of the device and the dtype to compute in.
    """

    in_place = False

    def __init__(self, small: tuple[int, int], large: tuple[int, int], align_corners: bool, like: Tensor) -> None:
        self.small, self.large = small, large
        self.taps = [_taps(s, l, align_corners) for s, l in zip(small, large, strict=True)]
        # Float64 is not on every device: it is left before the CPU is.
        self.rows, self.columns = (
            _matrix(*taps, size).to(like.dtype).to(like.device) for taps, size in zip(self.taps, small, strict=True)
        )
        lower, upper, weight = (part.to(like.device) for part in (*self.taps[0][:2], self.taps[0][2].to(like.dtype)))
        self.row_taps = ((lower, 1 - weight), (upper, weight))

    def widen(self, logits: Tensor) -> Tensor:  # noqa: D102
        few = logits.permute(1, 0, 2).reshape(-1, self.small[1])  # (h * C, w)
        wide = few.new_empty(self.small[0], len(logits), self.large[1])
        for band, support in self._bands():
            torch.mm(few[:, support], self.columns[band, support].T, out=wide.view(-1, self.large[1])[:, band])
        return wide

    def strip(self, wide: Tensor, rows: slice) -> Tensor:  # noqa: D102
        support = _support(self.taps[0], rows)
        return torch.mm(self.rows[rows, support], wide[support].flatten(1)).view(-1, *wide.shape[1:])

    def wide_gradient(self, gradient: Tensor) -> Tensor:  # noqa: D102
        return gradient.new_zeros(self.small[0], len(gradient), self.large[1])

    def give(self, wide: Tensor, strip: Tensor, rows: slice) -> None:  # noqa: D102
        support = _support(self.taps[0], rows)
        wide[support].view(support.stop - support.start, -1).addmm_(self.rows[rows, support].T, strip.flatten(1))

    def add(self, wide: Tensor, rows: Tensor, classes: Tensor, columns: Tensor, values: Tensor) -> None:  # noqa: D102
        for tap, weight in self.row_taps:
            place = flat_index(wide, tap[rows], classes, columns)
            flat_view(wide).index_add_(0, place.view(-1), (values * weight[rows]).view(-1))

    def narrow(self, wide: Tensor, gradient: Tensor) -> None:  # noqa: D102
        few = wide.new_zeros(wide.shape[0] * wide.shape[1], self.small[1])
        for band, support in self._bands():
            few[:, support].addmm_(wide.view(-1, self.large[1])[:, band], self.columns[band, support])
        gradient.copy_(few.view(self.small[0], -1, self.small[1]).permute(1, 0, 2))

    def _bands(self) -> list[tuple[slice, slice]]:
        """Some columns at a time, and the columns of the logits that they depend on."""
        bands = [slice(first, min(first + BAND, self.large[1])) for first in range(0, self.large[1], BAND)]
        return [(band, _support(self.taps[1], band)) for band in bands]


def _taps(small: int, large: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``large`` positions: the two of ``small`` around it, and the weight of the second."""
    position = torch.arange(large, dtype=torch.float64)
    if align_corners:
        position *= (small - 1) / (large - 1) if large > 1 else 0.0
    else:
        position = ((position + 0.5) * (small / large) - 0.5).clamp(min=0)
    lower = position.floor().long().clamp(max=small - 1)
    return lower, (lower + 1).clamp(max=small - 1), position - lower


def _support(taps: tuple[Tensor, Tensor, Tensor], large: slice) -> slice:
    """The positions that these enlarged positions depend on."""
    return slice(int(taps[0][large.start]), int(taps[1][large.stop - 1]) + 1)


def _matrix(lower: Tensor, upper: Tensor, weight: Tensor, small: int) -> Tensor:
    """The enlargement of one dimension as a matrix, (large, small)."""
    matrix = torch.zeros(len(lower), small, dtype=weight.dtype)
    row = torch.arange(len(lower))
    matrix[row, lower] += 1 - weight
    matrix[row, upper] += weight
    return matrix
