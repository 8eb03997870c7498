"""Numbers that people give to data modules."""

import math


def is_number(value: object) -> bool:
    """Whether it is a finite number, and not a yes or no."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_scale(value: float) -> bool:
    """Whether it is a number that sides can be multiplied by."""
    return is_number(value) and 0 < value <= MOST_SCALE


MOST_SCALE = 1e4  # a larger one makes nothing but noise of an image


def check_whole(name: str, value: object, smallest: int) -> None:
    """Refuse what is no whole number of at least the smallest.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise ValueError(f"expected {name} to be {smallest} or more, a whole number, got {value!r}")


def check_sides(name: str, value: object) -> None:
    """Refuse what is not a height and a width in whole pixels.

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
    """Refuse a height and width of more pixels than an image may have.

    Raises:
        ValueError: If there are more.
    """
    if value[0] * value[1] > max_pixels:
        raise ValueError(
            f"expected {name} to be at most max_pixels={max_pixels} pixels, got {value[0]}x{value[1]} (height x width)"
        )


def check_image_size(value: int | tuple[int, int] | None, max_pixels: int) -> None:
    """Refuse what images cannot be resized to: a height and a width, or a shorter side, or None.

    Raises:
        ValueError: If it is none of these, or has too many pixels.
    """
    if isinstance(value, tuple | list):
        check_sides("image_size", value)
        check_area("image_size", (value[0], value[1]), max_pixels)
    elif value is not None:
        check_whole("image_size", value, 1)
