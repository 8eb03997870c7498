"""Labels as colours: from RGB PNGs, as annotation tools export them, to label values."""

from pathlib import Path
from typing import Any

import numpy as np

from cpg_lightning.data.class_info import Colour
from cpg_lightning.data.class_table import ClassTable, hexadecimal
from cpg_lightning.data.decoding import decode_colors

ROWS = 64  # looked up at once: what is written in between stays in a core's cache
MOST_COLOURS = 3  # in a message


class ColorLabels:
    """Decodes labels whose pixels have the colours of a class table.

    Args:
        table: The classes, and what is ignored, with their colours.

    Raises:
        ValueError: If all 256 values are taken, so that none is left for unknown colours.
    """

    def __init__(self, table: ClassTable) -> None:
        self.classes = table
        colours = [*zip(table.names, table.palette, table.values, strict=True)]
        void = zip(table.void_palette, table.void, strict=True)
        colours += [("ignored", colour, value) for colour, value in void if colour is not None]
        self.colours: list[tuple[str, Colour, int]] = colours
        free = sorted(set(range(256)) - {value for _, _, value in colours})
        if not free:
            raise ValueError("expected at most 255 colours, got 256: leave a value out of the class table")
        self.unknown = free[-1]
        # Each of the 2^24 colours has a byte: a look-up costs less than any search.
        self.values = np.full(1 << 24, self.unknown, dtype=np.uint8)
        for _, (red, green, blue), value in colours:
            self.values[red | green << 8 | blue << 16] = value

    def __reduce__(self) -> tuple[Any, ...]:
        return ColorLabels, (self.classes,)  # a spawned process makes the table itself

    def __call__(self, data: bytes, path: Path) -> np.ndarray:
        """Label values, uint8 (H, W), of a label file's content; ``path`` is for messages.

        Raises:
            ValueError: If it cannot be read, see :func:`~cpg_lightning.data.decoding.decode_colors`, or has a colour that
                the class table does not have.
        """
        pixels = decode_colors(data, path)  # (H, W, 3)
        height, width, _ = pixels.shape
        # Eight bytes from each pixel on as one number, whose lowest three are its colour: nothing is copied.
        spare = np.concatenate([pixels.ravel(), np.zeros(8, np.uint8)])
        numbers: np.ndarray = np.ndarray((height, width), "<i8", spare, strides=(3 * width, 3))
        values = np.empty((height, width), np.uint8)
        for row in range(0, height, ROWS):
            codes = numbers[row : row + ROWS] & 0xFFFFFF
            self.values.take(codes, out=values[row : row + ROWS], mode="clip")  # clip: without a buffer
        if (values == self.unknown).any():
            raise ValueError(self._unknown(pixels[values == self.unknown], path))
        return values

    def _unknown(self, pixels: np.ndarray, path: Path) -> str:
        """What is wrong with pixels (N, 3) of colours that are not in the table, and which of its colours are nearest."""
        colours, counts = np.unique(pixels, axis=0, return_counts=True)
        known = np.array([colour for _, colour, _ in self.colours])
        said = []
        for index in counts.argsort()[::-1][:MOST_COLOURS]:
            distances = ((known - colours[index].astype(int)) ** 2).sum(axis=1)
            name, nearest, _ = self.colours[int(distances.argmin())]
            colour = hexadecimal(tuple(colours[index].tolist()))
            said.append(f"{colour} in {counts[index]} pixels (the nearest is {name}'s {hexadecimal(nearest)})")
        more = f" and {len(colours) - len(said)} more colours" if len(colours) > len(said) else ""
        return (
            f"expected the colours of the class table, got {', '.join(said)}{more}: {path}; give the colour a line, without "
            "a name if it is to be ignored; many colours between the classes' come from a JPEG or from smoothed edges"
        )
