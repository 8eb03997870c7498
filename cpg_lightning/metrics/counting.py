"""Counting of integers, and ratios of counts, without device synchronisation."""

import math

import torch
from torch import Tensor

MOST_CLASSES = 255  # label maps are uint8, and 255 is reserved for ignored pixels
LARGEST_TABLES = 2**20  # on an accelerator: largest number of bins of all tables of a row


def count(values: Tensor, bins: int) -> Tensor:
    """The number of occurrences of each integer from 0 to ``bins - 1`` in each row.

    Equal to ``torch.bincount`` per row, without its device synchronisations.

    Args:
        values: Integers from 0 to ``bins - 1``, (R, N).
        bins: Number of bins.

    Returns:
        int64 (R, bins)
    """
    if values.device.type == "cpu":
        return torch.stack([torch.bincount(row, minlength=bins) for row in values])
    # Atomic additions to one address are serialised, so each part of a row has its own table.
    rows, length = values.shape
    parts = math.gcd(length, 2 ** int(math.log2(max(1, LARGEST_TABLES // bins)))) if length else 1
    starts = torch.arange(0, rows * parts * bins, bins, device=values.device)
    places = values.reshape(rows * parts, length // parts) + starts[:, None]
    tables = torch.zeros(rows * parts * bins, dtype=torch.int64, device=values.device)
    tables.index_add_(0, places.view(-1), tables.new_ones(()).expand(places.numel()))
    return tables.view(rows, parts, bins).sum(dim=1)


def fraction(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole`` of counts, float64, NaN for 0 / 0. Computed on the CPU, because some devices lack float64."""
    return part.cpu().double() / whole.cpu().double()


def without_class(values: Tensor, ignore_index: int) -> Tensor:
    """Values (..., C) with NaN for the class ``ignore_index``, if there is such a class."""
    if 0 <= ignore_index < values.shape[-1]:
        values = values.clone()
        values[..., ignore_index] = torch.nan
    return values


def check_num_classes(num_classes: int) -> None:
    """Check that label maps can represent the number of classes.

    Raises:
        ValueError: For fewer than 2 or more than 255 classes.
    """
    if not 2 <= num_classes <= MOST_CLASSES:
        raise ValueError(
            f"expected from 2 to {MOST_CLASSES} classes, got {num_classes}; name the background as a class"
        )
