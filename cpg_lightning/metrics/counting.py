"""Counts of integers and what is computed from counts, without a wait for the device."""

import math

import torch
from torch import Tensor

MOST_CLASSES = 255  # label maps are bytes, and 255 is no class
LARGEST_TABLES = 2**20  # bins of all tables of a row, on an accelerator


def count(values: Tensor, bins: int) -> Tensor:
    """How often each integer from 0 to ``bins - 1`` occurs in each row.

    It is ``torch.bincount`` without its waits for the device.

    Args:
        values: Integers from 0 to ``bins - 1``, (R, N).
        bins: Number of bins.

    Returns:
        int64 (R, bins)
    """
    if values.device.type == "cpu":
        return torch.stack([torch.bincount(row, minlength=bins) for row in values])
    # Additions to one address wait for each other, so each part of a row has a table of its own.
    rows, length = values.shape
    parts = math.gcd(length, 2 ** int(math.log2(max(1, LARGEST_TABLES // bins)))) if length else 1
    starts = torch.arange(0, rows * parts * bins, bins, device=values.device)
    places = values.reshape(rows * parts, length // parts) + starts[:, None]
    tables = torch.zeros(rows * parts * bins, dtype=torch.int64, device=values.device)
    tables.index_add_(0, places.view(-1), tables.new_ones(()).expand(places.numel()))
    return tables.view(rows, parts, bins).sum(dim=1)


def fraction(part: Tensor, whole: Tensor) -> Tensor:
    """Counts divided by counts, float64, NaN where there are none; on the CPU, as not every device has float64."""
    return part.cpu().double() / whole.cpu().double()


def without_class(values: Tensor, ignore_index: int) -> Tensor:
    """Values (..., C) with NaN for the class ``ignore_index``, if there is such a class."""
    if 0 <= ignore_index < values.shape[-1]:
        values = values.clone()
        values[..., ignore_index] = torch.nan
    return values


def check_num_classes(num_classes: int) -> None:
    """Refuse a number of classes that label maps cannot have.

    Raises:
        ValueError: For less than 2 or more than 255 classes.
    """
    if not 2 <= num_classes <= MOST_CLASSES:
        raise ValueError(
            f"expected from 2 to {MOST_CLASSES} classes, got {num_classes}; name the background as a class"
        )
