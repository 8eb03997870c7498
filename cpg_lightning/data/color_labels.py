"""Decoding colour labels: from RGB PNGs, as annotation tools export them, to label values."""

from pathlib import Path
from typing import Any

import numpy as np

from cpg_lightning.data.class_info import Colour
from cpg_lightning.data.class_table import ClassTable, hexadecimal
from cpg_lightning.data.decoding import decode_colors

ROWS = 64  # rows that are looked up together, so that intermediate values stay in a core's cache
MOST_COLOURS = 3  # largest number of colours in a message


class ColorLabels:
    """Decodes labels whose pixels have the colours of a class table.

    Args:
        table: The classes and the ignored values, with their colours.

    Raises:
        ValueError: If all 256 values are used, so that no value is left for unknown colours.
    """

    def __init__(self, table: ClassTable) -> None:
        self.classes = table
        colours = [*zip(table.names, table.palette, table.values, strict=True)]
        void = zip(table.void_palette, table.void, strict=True)
        colours += [("ignored", colour, value) for colour, value in void if colour is not None]
        self.colours: list[tuple[str, Colour, int]] = colours
        free = sorted(set(range(256)) - {value for _, _, value in colours})
        if not free:
            raise ValueError("expected at most 255 colours, got 256: remove a value from the class table")
        self.unknown = free[-1]
        # One byte for each of the 2^24 colours: a look-up is faster than any search.
        self.values = np.full(1 << 24, self.unknown, dtype=np.uint8)
        for _, (red, green, blue), value in colours:
            self.values[red | green << 8 | blue << 16] = value

    def __reduce__(self) -> tuple[Any, ...]:
        return ColorLabels, (self.classes,)  # a spawned process builds the table itself

    def __call__(self, data: bytes, path: Path) -> np.ndarray:
        """Label values, uint8 (H, W), of a label file's content; ``path`` is used in messages.

        Raises:
            ValueError: If the file cannot be read, see :func:`~cpg_lightning.data.decoding.decode_colors`, or has a
                colour that is not in the class table.
        """
        pixels = decode_colors(data, path)  # (H, W, 3)
        height, width, _ = pixels.shape
        # A view of eight bytes from each pixel on as one number. Its lowest three bytes are the pixel's colour.
        spare = np.concatenate([pixels.ravel(), np.zeros(8, np.uint8)])
        numbers: np.ndarray = np.ndarray((height, width), "<i8", spare, strides=(3 * width, 3))
        values = np.empty((height, width), np.uint8)
        for row in range(0, height, ROWS):
            codes = numbers[row : row + ROWS] & 0xFFFFFF
            self.values.take(codes, out=values[row : row + ROWS], mode="clip")  # clip avoids a buffer
        if (values == self.unknown).any():
            raise ValueError(self._unknown(pixels[values == self.unknown], path))
        return values

    def _unknown(self, pixels: np.ndarray, path: Path) -> str:
        """The error message for pixels (N, 3) of unknown colours, with the nearest known colours."""
        colours, counts = np.unique(pixels, axis=0, return_counts=True)
        known = np.array([colour for _, colour, _ in self.colours])
        described = []
        for index in counts.argsort()[::-1][:MOST_COLOURS]:
            distances = ((known - colours[index].astype(int)) ** 2).sum(axis=1)
            name, nearest, _ = self.colours[int(distances.argmin())]
            colour = hexadecimal(tuple(colours[index].tolist()))
            described.append(f"{colour} in {counts[index]} pixels (the nearest is {name}'s {hexadecimal(nearest)})")
        rest = len(colours) - len(described)
        more = f" and {rest} more colours" if rest else ""
        return (
            f"expected the colours of the class table, got {', '.join(described)}{more}: {path}; add a line with the colour, "
            "without a name to ignore it; many colours between those of the classes come from a JPEG or from smoothed edges"
        )
