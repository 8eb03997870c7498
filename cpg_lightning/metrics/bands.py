"""The boundary pixels that each boundary metric evaluates, computed for all classes at once."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# The boundaries of an image with the labels A and B. A letter marks a boundary pixel and shows its label.
#
#    label map       one_pixel_contours   inner_bands(1)   two_sided_bands(1)
#                    (boundary F1)        (boundary IoU)   (trimap)
#    A A A A A A A   . . . . . . .        A A A A A A A    . . . . . . .
#    A A A A A A A   . . . . . . .        A . . . . . A    . . . A A A A
#    A A A A A A A   . . . A A A A        A . . A A A A    . . A A A A A
#    A A A A B B B   . . . A . . .        A . . A B B B    . . A A B B B
#    A A A A B B B   . . . A . . .        A . . A B . B    . . A A B B B
#    A A A A B B B   . . . A . . .        A . . A B . B    . . A A B B .
#    A A A A B B B   . . . A . . .        A A A A B B B    . . A A B B .
#
# A pixel of one_pixel_contours is on the contours of both A and B. In the two bands, a pixel belongs to its own label
# only. Two more definitions exist: pictures.boundary_band selects the pixels to draw, and losses.cpg.boundary_entries
# selects entries (pixel, class, direction).

VOID = 255  # value of ignored pixels in these label maps


def label_map(classes: Tensor, ignored: Tensor) -> Tensor:
    """Classes (N, H, W) as uint8, ``VOID`` where they are ignored."""
    return classes.to(torch.uint8).masked_fill(ignored, VOID)


def mixed_blocks(labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Whether the 2x2 block of each pixel (the pixel and its east, south and south-east neighbours) has several labels.

    The last row and column are replicated.

    Args:
        labels: uint8 (N, H, W)

    Returns:
        bool (N, H, W), and the four labels of each block, uint8 (N, H, W) each.
    """
    east = torch.cat([labels[:, :, 1:], labels[:, :, -1:]], dim=2)
    south, south_east = (torch.cat([each[:, 1:], each[:, -1:]], dim=1) for each in (labels, east))
    mixed = (east != labels) | (south != labels) | (south_east != labels)
    return mixed, [labels, east, south, south_east]


def one_pixel_contours(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The contour of each class: the pixels whose 2x2 block is partly of the class.

    The image border is not a contour. The border of an ignored region is a contour of the adjacent classes.

    Args:
        labels: Classes or ``VOID``, uint8 (N, H, W).

    Returns:
        The flat index of each contour pixel, in ascending order, int64 (P). The classes whose contours contain the
        pixel, at most four, padded with ``VOID``, uint8 (4, P).
    """
    mixed, corners = mixed_blocks(labels)
    pixels = mixed.view(-1).nonzero().squeeze(1)
    classes = torch.stack([corner.view(-1).index_select(0, pixels) for corner in corners])
    for corner in range(1, 4):
        repeated = (classes[corner] == classes[:corner]).any(dim=0)
        classes[corner].masked_fill_(repeated, VOID)
    return pixels, classes


def inner_bands(labels: Tensor, width: int) -> Tensor:
    """The inner band of each segment: its pixels within ``width`` of another label or of the image border.

    Distances are Chebyshev distances. For each label, the band is the part of its mask that erosion with a box of ``2 * width + 1`` pixels and zero
    padding removes.

    Args:
        labels: uint8 (N, H, W)
        width: Width of the bands in pixels, 1 or more.

    Returns:
        bool (N, H, W)
    """
    mixed, _ = mixed_blocks(labels)
    # A box of pixels has a single label if each of its 2x2 blocks has. A side of n pixels has n - 1 blocks.
    blocks = F.pad(mixed[:, :-1, :-1].view(torch.uint8), (width,) * 4, value=1)
    return dilated(blocks, 2 * width).view(torch.bool)


def two_sided_seeds(labels: Tensor) -> Tensor:
    """Pixels on both sides of a boundary: one of their 4 neighbours has another class, and neither pixel is ignored.

    Args:
        labels: Classes or ``VOID``, uint8 (N, H, W).

    Returns:
        bool (N, H, W)
    """
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


def two_sided_bands(labels: Tensor, widths: Sequence[int]) -> Tensor:
    """The number of two-sided bands that do not contain each pixel.

    The band of width w is :func:`two_sided_seeds` dilated with a box of ``2 * w + 1`` pixels.

    Args:
        labels: Classes or ``VOID``, uint8 (N, H, W).
        widths: Widths in pixels, ascending.

    Returns:
        uint8 (N, H, W), 0 where all bands contain the pixel.
    """
    height, width = labels.shape[1:]
    outside = widths[-1]
    band = F.pad(two_sided_seeds(labels).view(torch.uint8), (outside,) * 4)
    levels = torch.full_like(labels, len(widths))
    reached = 0
    for each in widths:
        band = dilated(band, 2 * (each - reached) + 1)
        reached = each
        margin = outside - reached
        levels -= band[:, margin : margin + height, margin : margin + width]
    return levels


def dilated(values: Tensor, size: int) -> Tensor:
    """Maximum of each box of ``size`` times ``size`` pixels of maps (N, H, W), without padding, by doubling the box."""
    for dim in (1, 2):
        span = 1
        while span < size:
            shift = min(span, size - span)
            length = values.shape[dim] - shift
            values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, shift, length))
            span += shift
    return values
