"""Time and memory of the other losses, forward and backward, beside upsampling and cross-entropy in plain torch."""

from collections.abc import Iterator

from losses import SHAPES, all_rows
from measure import Options


def table(options: Options) -> Iterator[str]:
    """Rows of each shape, stride and type; on a GPU of the first shape, since two of the losses compute on the CPU."""
    yield "Forward and backward pass; all but the first column of numbers are ratios to it. Labels are drawn."
    shapes = SHAPES[options.device.type]
    yield from all_rows(options, shapes if options.device.type == "cpu" else shapes[:1], "others")
