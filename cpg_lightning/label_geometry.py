"""Bands and contours in label maps, of all classes at once, on any device."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

VOID = 255  # in the maps here: no class
AT_ONCE = 8  # shifts that contours are compared at in one go


def class_map(classes: Tensor, valid: Tensor) -> Tensor:
    """Classes (N, H, W) as uint8, ``VOID`` where they are not valid."""
    return classes.where(valid, VOID).to(torch.uint8)


def inner_band(labels: Tensor, width: int) -> Tensor:
    """Pixels within ``width`` of a pixel of another value or of the outside, bool (N, H, W), Chebyshev distance.

    For each value it is what its mask loses by erosion with a box of ``2 * width + 1`` pixels, zeros being outside.
    """
    band = window(labels, width, torch.maximum, 0) != window(labels, width, torch.minimum, 255)
    band[:, :width] = band[:, -width:] = True
    band[:, :, :width] = band[:, :, -width:] = True
    return band


def transitions(labels: Tensor) -> Tensor:
    """Pixels with one of their 4 neighbours of another class, neither of them void, bool (N, H, W): both sides of it."""
    valid = labels != VOID
    seeds = torch.zeros_like(valid)
    for dim in (1, 2):
        length = labels.shape[dim] - 1
        here, there = (0, length), (1, length)
        differ = (labels.narrow(dim, *here) != labels.narrow(dim, *there)) & (
            valid.narrow(dim, *here) & valid.narrow(dim, *there)
        )
        seeds.narrow(dim, *here).logical_or_(differ)
        seeds.narrow(dim, *there).logical_or_(differ)
    return seeds


def band_levels(labels: Tensor, widths: Sequence[int]) -> Tensor:
    """How many of the ascending widths are too small for a pixel to be that near to a transition, uint8 (N, H, W).

    The band of width w is the transitions dilated by a box of ``2 * w + 1`` pixels.
    """
    band = transitions(labels).to(torch.uint8)
    levels = torch.zeros_like(band)
    reached = 0
    for width in widths:
        band = window(band, width - reached, torch.maximum, 0)
        reached = width
        levels += 1 - band
    return levels


def window(values: Tensor, radius: int, combine: Callable[[Tensor, Tensor], Tensor], outside: int) -> Tensor:
    """Maximum or minimum over a box of ``2 * radius + 1`` pixels around each, (N, H, W), by doubling."""
    for dim in (1, 2):
        padding = [0, 0, radius, radius] if dim == 1 else [radius, radius, 0, 0]
        values = torch.nn.functional.pad(values, padding, value=outside)
        span, size = 1, 2 * radius + 1
        while span < size:
            shift = min(span, size - span)
            length = values.shape[dim] - shift
            values = combine(values.narrow(dim, 0, length), values.narrow(dim, shift, length))
            span += shift
    return values


class Contours:
    """The contours of each class of one label map (H, W): where its mask differs to the east, south or south-east.

    The outside repeats the last row and column, so the frame is no contour. A pixel is on the contours of up to four
    classes, those of the 2x2 block at it, unless all four are one.

    Args:
        labels: Classes or ``VOID``, uint8 (H, W).
        reach: The largest distance that :meth:`matched` will be asked for, in pixels.

    Attributes:
        blocks: The four classes of each block as the bytes of an integer, ``VOID`` where all are one; ``reach`` pixels are
            added on every side. int32 (H + 2 * reach, W + 2 * reach), flat.
        pixels: Index in ``blocks`` of each contour entry, int64 (E).
        classes: Its class, int64 (E).
    """

    def __init__(self, labels: Tensor, reach: int) -> None:
        height, width = labels.shape
        self.stride = width + 2 * reach
        east = torch.cat([labels[:, 1:], labels[:, -1:]], dim=1)
        below = [torch.cat([each[1:], each[-1:]]) for each in (labels, east)]
        block = torch.stack([labels, east, *below]).view(4, -1)  # (4, H * W)
        pixels = (block[1:] != block[0]).any(dim=0).nonzero().squeeze(1)
        corners = block[:, pixels].to(torch.int64)
        padded = (pixels // width + reach) * self.stride + pixels % width + reach
        size = (height + 2 * reach) * self.stride
        self.blocks = torch.full((size,), -1, dtype=torch.int32, device=labels.device)  # four bytes of VOID
        self.blocks[padded] = sum(
            (corners[corner] << (8 * corner) for corner in range(4)), start=torch.zeros_like(pixels)
        ).to(torch.int32)
        fresh = corners != VOID
        for corner in range(1, 4):
            fresh[corner] &= (corners[corner] != corners[:corner]).all(dim=0)
        self.pixels = padded.expand(4, -1)[fresh]
        self.classes = corners[fresh]

    def count(self, num_classes: int) -> Tensor:
        """Contour pixels of each class, int64 (C)."""
        return torch.bincount(self.classes, minlength=num_classes)

    def matched(self, other: "Contours", distances: Sequence[float], num_classes: int) -> Tensor:
        """Contour pixels of each class with one of the other map's within each ascending distance, int64 (T, C)."""
        pixels, classes = self.pixels, self.classes
        patterns = (classes * 0x01010101).to(torch.int32)  # the class as each of four bytes
        counts = []
        for ring in _rings(distances):
            offsets = (ring[:, 0] * self.stride + ring[:, 1]).to(pixels.device)
            found_in_ring = []
            for near in torch.split(
                offsets, AT_ONCE
            ):  # most are matched by the nearest, and the others need not be looked at
                # index_select: three times faster than indexing.
                blocks = other.blocks.index_select(0, (pixels[:, None] + near).view(-1)).view(len(pixels), len(near))
                found = _has_byte(blocks, patterns[:, None]).any(dim=1)
                found_in_ring.append(classes[found])
                rest = (~found).nonzero().squeeze(1)
                pixels, classes, patterns = (each.index_select(0, rest) for each in (pixels, classes, patterns))
            counts.append(torch.bincount(torch.cat(found_in_ring), minlength=num_classes))
        return torch.stack(counts).cumsum(dim=0)


def _rings(distances: Sequence[float]) -> list[Tensor]:
    """The shifts (y, x) that each ascending distance has more than the one before, nearest first, int64 (S, 2)."""
    reach = int(max(distances))
    axis = torch.arange(-reach, reach + 1)
    shifts = torch.cartesian_prod(axis, axis)
    squared, order = shifts.square().sum(dim=1).sort(stable=True)
    limits = [-1.0, *(distance**2 for distance in distances)]
    return [shifts[order[(squared > below) & (squared <= limit)]] for below, limit in pairwise(limits)]


def _has_byte(blocks: Tensor, patterns: Tensor) -> Tensor:
    """Whether one of a block's four bytes is the pattern's: a zero byte of their difference borrows from the next."""
    differences = blocks ^ patterns
    return ((differences - 0x01010101) & ~differences & -0x7F7F7F80) != 0  # the last is 0x80808080 as int32
