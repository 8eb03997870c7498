"""Bilinear enlargement of logits in pieces, and its adjoint: full-resolution logits need never exist."""

import torch
from torch import Tensor


class Enlargement:
    """What ``F.interpolate(logits, size, mode="bilinear")`` does, for some rows or some pixels of one image at a time.

    Args:
        small: Height and width of the logits.
        large: Height and width they are enlarged to; the same gives the logits themselves.
        align_corners: As in ``torch.nn.functional.interpolate``.
        like: A tensor of the device and the dtype to compute in.
    """

    def __init__(self, small: tuple[int, int], large: tuple[int, int], align_corners: bool, like: Tensor) -> None:
        self.small, self.large = small, large
        self.identity = small == large
        if not self.identity:
            self.taps = [_taps(s, l, align_corners) for s, l in zip(small, large, strict=True)]
            self.rows, self.columns = (
                _matrix(*taps, size).to(like) for taps, size in zip(self.taps, small, strict=True)
            )
            self.placed = [tuple(part.to(like.device) for part in taps) for taps in self.taps]

    def strip(self, logits: Tensor, rows: slice) -> Tensor:
        """Some rows of the enlarged (C, h, w), as (C, pixels)."""
        if self.identity:
            return logits[:, rows].flatten(1)
        low, high = self._support(rows)
        wide = logits[:, low:high] @ self.columns.T  # (C, few, W)
        return torch.matmul(self.rows[rows, low:high], wide).flatten(1)

    def new_gradient(self, logits: Tensor) -> Tensor:
        """A gradient that :meth:`give_strip` has to be called on once for every row before it is one."""
        return (
            torch.empty_like(logits, memory_format=torch.contiguous_format)
            if self.identity
            else torch.zeros_like(logits, memory_format=torch.contiguous_format)
        )

    def give_strip(self, gradient: Tensor, strip: Tensor, rows: slice) -> None:
        """The adjoint of :meth:`strip`: give (C, pixels) to the gradient (C, h, w)."""
        strip = strip.view(len(strip), -1, self.large[1])
        if self.identity:
            gradient[:, rows] = strip
            return
        low, high = self._support(rows)
        gradient[:, low:high] += torch.matmul(self.rows[rows, low:high].T, strip) @ self.columns

    def pixels(self, logits: Tensor, index: Tensor) -> Tensor:
        """Some pixels of the enlarged (C, h, w), by their flat index (M), as (M, C)."""
        if self.identity:
            return logits.flatten(1)[:, index].T.contiguous()
        flat = logits.flatten(1).T.contiguous()  # (h * w, C): a pixel's classes side by side
        pixels = flat.new_zeros(len(index), flat.shape[1])
        for where, weight in self._corners(index):
            pixels.addcmul_(flat.index_select(0, where), weight)
        return pixels

    def add_pixels(self, gradient: Tensor, pixels: Tensor, index: Tensor) -> None:
        """The adjoint of :meth:`pixels`: add (M, C) to the gradient (C, h, w)."""
        if self.identity:
            gradient.view(len(gradient), -1).index_add_(1, index, pixels.T)
            return
        flat = gradient.new_zeros(self.small[0] * self.small[1], len(gradient))
        for where, weight in self._corners(index):
            flat.index_add_(0, where, pixels * weight)
        gradient += flat.T.view_as(gradient)

    def _support(self, rows: slice) -> tuple[int, int]:
        """The rows of the logits that these enlarged rows depend on."""
        return int(self.taps[0][0][rows.start]), int(self.taps[0][1][rows.stop - 1]) + 1

    def _corners(self, index: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Flat index in the logits (M), and weight (M, 1), of the four pixels around each enlarged one."""
        y, x = index // self.large[1], index % self.large[1]
        (y0, y1, wy), (x0, x1, wx) = self.placed
        wy, wx = wy[y].to(self.rows), wx[x].to(self.rows)
        rows, columns = ((y0[y], 1 - wy), (y1[y], wy)), ((x0[x], 1 - wx), (x1[x], wx))
        return [(at * self.small[1] + to, (a * b)[:, None]) for at, a in rows for to, b in columns]


def _taps(small: int, large: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``large`` positions: the two of ``small`` around it, and the weight of the second."""
    position = torch.arange(large, dtype=torch.float64)
    if align_corners:
        position *= (small - 1) / (large - 1) if large > 1 else 0.0
    else:
        position = ((position + 0.5) * (small / large) - 0.5).clamp(min=0)
    lower = position.floor().long().clamp(max=small - 1)
    return lower, (lower + 1).clamp(max=small - 1), position - lower


def _matrix(lower: Tensor, upper: Tensor, weight: Tensor, small: int) -> Tensor:
    """The enlargement of one dimension as a matrix, (large, small)."""
    matrix = torch.zeros(len(lower), small, dtype=weight.dtype)
    row = torch.arange(len(lower))
    matrix[row, lower] += 1 - weight
    matrix[row, upper] += weight
    return matrix
