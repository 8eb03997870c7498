"""Bilinear upsampling of logits by rows, and its adjoint, without full-resolution logits."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor


class Upsampling(ABC):
    """Upsampling of rows of logits to target size, and its adjoint for the gradient."""

    in_place: bool
    """Whether rows of the upsampled gradient are views of the gradient."""

    @abstractmethod
    def new_gradient(self, logits: Tensor) -> Tensor:
        """Memory for the gradient of logits (B, C, h, w), to be filled by :meth:`accumulate_rows`."""

    @abstractmethod
    def upsample(self, logits: Tensor, rows: slice, out: Tensor) -> Tensor:
        """Some rows of the upsampled logits.

        Args:
            logits: (N, C, h, w); finite, unless all rows are requested.
            rows: Rows of the target.
            out: Memory for the result, (N, C, rows, W); contiguous in (C, W), or completely if all rows are requested.

        Returns:
            The logits (N, C, rows, W): ``out``, or a view of ``logits``.
        """

    @abstractmethod
    def accumulate_rows(self, gradient: Tensor, upsampled: Tensor, rows: slice) -> None:
        """The adjoint of upsampling: add the gradient of some rows to that of the logits.

        Args:
            gradient: (N, C, h, w)
            upsampled: Gradient with respect to the upsampled logits, finite, (N, C, rows, W).
            rows: Rows of the target.
        """

    @abstractmethod
    def accumulate_nan(self, gradient: Tensor, mask: Tensor) -> None:
        """Write NaN to the gradient (B, C, h, w) of the logits that contribute to pixels of a mask (B, H, W)."""


class Identity(Upsampling):
    """Logits at target size: rows are views, and their gradient is computed in place."""

    in_place = True

    def new_gradient(self, logits: Tensor) -> Tensor:  # noqa: D102
        return torch.empty_like(logits)

    def upsample(self, logits: Tensor, rows: slice, out: Tensor) -> Tensor:  # noqa: D102
        return logits[:, :, rows]

    def accumulate_rows(self, gradient: Tensor, upsampled: Tensor, rows: slice) -> None:  # noqa: D102
        pass

    def accumulate_nan(self, gradient: Tensor, mask: Tensor) -> None:  # noqa: D102
        gradient.masked_fill_(mask.unsqueeze(1), torch.nan)


class Bilinear(Upsampling):
    """The upsampling of ``F.interpolate(logits, size, mode="bilinear")``.

    Rows are computed by products with banded matrices. The adjoint uses the same matrices, because the backward pass of
    ``F.interpolate`` is not deterministic on a GPU.

    Args:
        small: Height and width of the logits.
        large: Height and width of the target.
        align_corners: As in ``torch.nn.functional.interpolate``.
        like: A tensor with the device and the dtype of the computation.
    """

    in_place = False

    def __init__(self, small: tuple[int, int], large: tuple[int, int], align_corners: bool, like: Tensor) -> None:
        self.large, self.align_corners = large, align_corners
        self.rows, self.columns = (_Axis(*sizes, align_corners, like) for sizes in zip(small, large, strict=True))

    def new_gradient(self, logits: Tensor) -> Tensor:  # noqa: D102
        return torch.zeros_like(logits)

    def upsample(self, logits: Tensor, rows: slice, out: Tensor) -> Tensor:  # noqa: D102
        if out.shape[2] == self.large[0]:  # F.interpolate with an output argument
            return torch.ops.aten.upsample_bilinear2d.out(logits, self.large, self.align_corners, out=out)
        support = self.rows.support(rows)
        few = logits[:, :, support].transpose(1, 2)  # (N, s, C, w)
        columns = few.new_empty(*few.shape[:3], self.large[1])
        flat, flat_columns = few.reshape(-1, few.shape[3]), columns.view(-1, self.large[1])
        for band, taps in self.columns.bands(slice(0, self.large[1])):
            torch.mm(flat[:, taps], self.columns.matrix[band, taps].T, out=flat_columns[:, band])
        columns, upsampled = columns.flatten(2), out.transpose(1, 2).flatten(2)  # (N, s, C * W), (N, rows, C * W)
        for band, taps in self.rows.bands(rows):
            matrix = self.rows.matrix[band, taps].expand(len(logits), -1, -1)
            torch.bmm(matrix, columns[:, _within(taps, support)], out=upsampled[:, _within(band, rows)])
        return out

    def accumulate_rows(self, gradient: Tensor, upsampled: Tensor, rows: slice) -> None:  # noqa: D102
        support = self.rows.support(rows)
        # Whole images are contiguous and keep their dimensions. Parts of images are contiguous as (rows, C, W).
        whole = upsampled.is_contiguous()
        # (N * C, H, W) or (N, rows, C * W)
        fine = upsampled.flatten(0, 1) if whole else upsampled.transpose(1, 2).flatten(2)
        columns = fine.new_zeros(len(fine), support.stop - support.start, fine.shape[2])
        for band, taps in self.rows.bands(rows):
            matrix = self.rows.matrix[band, taps].T.expand(len(fine), -1, -1)
            columns[:, _within(taps, support)].baddbmm_(matrix, fine[:, _within(band, rows)])
        flat = columns.view(-1, upsampled.shape[3])
        few = flat.new_zeros(len(flat), gradient.shape[3])
        for band, taps in self.columns.bands(slice(0, self.large[1])):
            few[:, taps].addmm_(flat[:, band], self.columns.matrix[band, taps])
        part = gradient[:, :, support]
        part.add_(few.view_as(part) if whole else few.view_as(part.transpose(1, 2)).transpose(1, 2))

    def accumulate_nan(self, gradient: Tensor, mask: Tensor) -> None:  # noqa: D102
        rows, columns = (axis.neighbours().to(gradient.dtype) for axis in (self.rows, self.columns))
        reached = rows.T @ mask.to(gradient.dtype) @ columns
        gradient.masked_fill_((reached > 0).unsqueeze(1), torch.nan)


class _Axis:
    """One dimension of a bilinear upsampling; row i of ``matrix`` (large, small) has the weights of position i."""

    def __init__(self, small: int, large: int, align_corners: bool, like: Tensor) -> None:
        # Position i lies at (first + i * step) / denominator. Integers are exact on every device. They are computed on
        # the device, because a copy from the host would synchronise.
        self.small, self.large = small, large
        self.first, self.step, self.denominator = small - large, 2 * small, 2 * large
        if align_corners:
            # For a single position the step would be 0, which arange refuses. Any step works, because positions are
            # clamped.
            self.first, self.step, self.denominator = 0, max(1, small - 1), max(1, large - 1)
        numerator = torch.arange(self.first, self.first + large * self.step, self.step, device=like.device)
        numerator.clamp_(0, (small - 1) * self.denominator)
        taps = torch.arange(0, small * self.denominator, self.denominator, device=like.device)
        self.difference = numerator[:, None] - taps
        weights = (self.denominator - self.difference.abs()).clamp_(min=0)
        self.matrix = weights.to(like.dtype).div_(self.denominator)
        # A product with a narrower band has fewer zeros, but on a GPU each product costs a launch.
        self.band = 128 if like.device.type == "cpu" else 256

    def neighbours(self) -> Tensor:
        """Whether a position of ``small`` is a neighbour of a position of ``large``, bool, (large, small).

        Each position of ``large`` lies between its two neighbours. A neighbour may have weight 0.
        """
        return (self.difference >= -self.denominator) & (self.difference < self.denominator)

    def support(self, positions: slice) -> slice:
        """The positions of ``small`` that contribute to some positions of ``large``."""
        return slice(self._lower(positions.start), min(self._lower(positions.stop - 1) + 2, self.small))

    def bands(self, positions: slice) -> Iterator[tuple[slice, slice]]:
        """Chunks of the positions of ``large``, each with its support."""
        for first in range(positions.start, positions.stop, self.band):
            band = slice(first, min(first + self.band, positions.stop))
            yield band, self.support(band)

    def _lower(self, position: int) -> int:
        return min(max(0, self.first + position * self.step) // self.denominator, self.small - 1)


def _within(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)
