"""Bilinear resizing of some rows of a map."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def source_rows(height: int, new_height: int, top: int, bottom: int, align_corners: bool) -> tuple[int, int]:
    """Return the first and last source row for the interpolation of rows ``top`` to ``bottom``.

    One extra row on each side allows for rounding, because the positions are computed on the device.
    """
    if align_corners:
        places = [row * (height - 1) / max(1, new_height - 1) for row in (top, bottom - 1)]
    else:
        places = [(row + 0.5) * height / new_height - 0.5 for row in (top, bottom - 1)]
    first, last = (min(max(place, 0), height - 1) for place in places)
    return max(0, math.floor(first) - 1), min(height - 1, math.floor(last) + 2)


def upsampled_rows(
    values: Tensor, first: int, height: int, size: tuple[int, int], top: int, bottom: int, align_corners: bool
) -> Tensor:
    """Compute rows ``top`` to ``bottom`` of a bilinearly resized map.

    Args:
        values: Rows of the map, starting with row ``first``, (B, C, rows, w).
        first: Index of the first row in ``values``.
        height: Height of the whole map.
        size: Height and width of the resized map.
        top: First row of the result.
        bottom: The row after the last row of the result.
        align_corners: As in ``torch.nn.functional.interpolate``.

    Returns:
        (B, C, bottom - top, width)
    """
    whole = first == 0 and values.shape[2] == height and (top, bottom) == (0, size[0])
    if whole and values.shape[-2:] == size:
        return values
    if whole:
        return F.interpolate(values, size, mode="bilinear", align_corners=align_corners)
    rows = torch.arange(top, bottom, device=values.device, dtype=torch.float32)
    places = rows * ((height - 1) / max(1, size[0] - 1)) if align_corners else (rows + 0.5) * (height / size[0]) - 0.5
    places = places.clamp(0, height - 1)
    upper = places.floor().long()
    lower = (upper + 1).clamp(max=height - 1)
    wide = values
    if values.shape[3] != size[1]:
        start, stop = source_rows(height, size[0], top, bottom, align_corners)
        wide, first = values[:, :, start - first : stop + 1 - first], start
        wide = F.interpolate(wide, (wide.shape[2], size[1]), mode="bilinear", align_corners=align_corners)
    return wide[:, :, upper - first].lerp(wide[:, :, lower - first], (places - upper)[:, None].to(wide.dtype))
