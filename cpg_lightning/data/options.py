"""Checks of numeric arguments of data modules."""

import math


def is_number(value: object) -> bool:
    """Whether the value is a finite number and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_scale(value: float) -> bool:
    """Whether the value is a valid scale factor of image sides."""
    return is_number(value) and 0 < value <= MOST_SCALE


MOST_SCALE = 1e4  # largest sensible scale factor


def check_whole(name: str, value: object, smallest: int) -> None:
    """Check that a value is an integer of at least ``smallest``.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise ValueError(f"expected {name} to be {smallest} or more, a whole number, got {value!r}")


def check_sides(name: str, value: object) -> None:
    """Check that a value is a height and a width in whole pixels.

    Raises:
        ValueError: If it is not.
    """
    if (
        not isinstance(value, tuple | list)
        or len(value) != 2
        or any(not is_number(side) or side != int(side) or side < 1 for side in value)
    ):
        raise ValueError(f"expected {name} to be a height and a width of 1 or more pixels, got {value}")


def check_area(name: str, value: tuple[int, int], max_pixels: int) -> None:
    """Check that a height and a width have at most ``max_pixels`` pixels.

    Raises:
        ValueError: If they have more.
    """
    if value[0] * value[1] > max_pixels:
        raise ValueError(
            f"expected {name} to be at most max_pixels={max_pixels} pixels, got {value[0]}x{value[1]} (height x width)"
        )


def check_image_size(value: int | tuple[int, int] | None, max_pixels: int) -> None:
    """Check that a value is a height and a width, the length of a shorter side, or None.

    Raises:
        ValueError: If it is none of these, or has too many pixels.
    """
    if isinstance(value, tuple | list):
        check_sides("image_size", value)
        check_area("image_size", (value[0], value[1]), max_pixels)
    elif value is not None:
        check_whole("image_size", value, 1)
