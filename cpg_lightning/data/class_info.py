"""The classes of a dataset as one object, shared by network, criterion, scores and pictures."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

Colour = tuple[int, int, int]
AbsentClasses = Literal["skip", "skip_always", "zero"]

IGNORED = 255  # value of ignored pixels in masks
MOST_CLASSES = 254  # of 256 values, 255 means ignored, and 254 marks a label value that is not in the dataset
MOST_SHOWN = 10  # largest number of classes in a message


@dataclass(frozen=True)
class ClassInfo:
    """The classes of a dataset, and the rules of its official evaluation.

    Args:
        names: Name of each class, in the order of their numbers 0..C-1.
        palette: Colour of each class, RGB in 0..255; distinct colours by default.
        absent_classes: Rule of the mIoU for a class that is absent from the labels; see
            :class:`~cpg_lightning.metrics.ClassIoU`.
        dilation_ratio: Width of the band of :class:`~cpg_lightning.metrics.BoundaryIoU`, as a fraction of the image's
            diagonal.

    Raises:
        ValueError: If there are fewer than 2 or more than 254 classes, if a name occurs twice, if the number of colours
            is wrong, or if a value is out of range.

    Example:
        >>> classes = ClassInfo(("road", "crack"))
        >>> classes.num_classes
        2
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...] = ()
    absent_classes: AbsentClasses = "skip"
    dilation_ratio: float = 0.02

    def __post_init__(self) -> None:
        if isinstance(self.names, str) or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"expected a list of class names, got {self.names!r}")
        if not 2 <= len(self.names) <= MOST_CLASSES:
            advice = "; name the background as a class" if len(self.names) == 1 else ""
            raise ValueError(f"expected 2 to {MOST_CLASSES} classes, got {len(self.names)}{advice}")
        twice = sorted({name for name in self.names if list(self.names).count(name) > 1})
        if twice:
            raise ValueError(f"expected each class name once, got more than once: {', '.join(twice)}")
        palette = self.palette or [distinct(number) for number in range(len(self.names))]
        if len(palette) != len(self.names):
            raise ValueError(f"expected a colour for each of {len(self.names)} classes, got {len(palette)} colours")
        if not all(_is_colour(colour) for colour in palette):
            raise ValueError(f"expected colours of three numbers from 0 to 255, got {self.palette!r}")
        if self.absent_classes not in ("skip", "skip_always", "zero"):
            raise ValueError(f"expected absent_classes to be skip, skip_always or zero, got {self.absent_classes!r}")
        if not isinstance(self.dilation_ratio, Real) or not 0 < self.dilation_ratio <= 1:
            raise ValueError(f"expected dilation_ratio to be above 0 and at most 1, got {self.dilation_ratio!r}")
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "palette", tuple((int(red), int(green), int(blue)) for red, green, blue in palette))

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.names)

    @classmethod
    def numbered(cls, num_classes: int) -> "ClassInfo":
        """Classes whose names are their numbers.

        Raises:
            ValueError: See :class:`ClassInfo`.
        """
        return cls(tuple(str(number) for number in range(num_classes)))

    def plain(self) -> dict[str, Any]:
        """The classes as plain values, for a checkpoint; :meth:`from_plain` reads them."""
        return {
            "names": list(self.names),
            "palette": [list(colour) for colour in self.palette],
            "absent_classes": self.absent_classes,
            "dilation_ratio": self.dilation_ratio,
        }

    @classmethod
    def from_plain(cls, values: Any) -> "ClassInfo":
        """Build the classes from the values of :meth:`plain`.

        Raises:
            ValueError: If the values are invalid.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("names"), list | tuple):
            raise ValueError(f"expected the names of classes, got {values!r}")
        try:
            return cls(**{str(name): value for name, value in values.items()})
        except TypeError as error:
            raise ValueError(
                f"expected names, palette, absent_classes and dilation_ratio, got others: {error}"
            ) from error

    def check_same(self, others: Sequence[str], what: str) -> None:
        """Check that other class names are the same, in the same order.

        Args:
            others: Names of classes.
            what: Owner of the other classes, for the message.

        Raises:
            ValueError: If the names differ; the error shows the differences.
        """
        if tuple(others) != self.names:
            raise ValueError(
                f"expected {what} to have the data's classes in the data's order, but {self.difference(others)}"
            )

    def difference(self, others: Sequence[str]) -> str:
        """The differences between other class names and these, in words."""
        if len(others) != len(self.names):
            return f"the data has {_listed(self.names)}, and it has {_listed(others)}"
        pairs = [each for each in zip(range(len(others)), self.names, others, strict=True) if each[1] != each[2]]
        more = f", and {len(pairs) - MOST_SHOWN} more differ" if len(pairs) > MOST_SHOWN else ""
        shown = ", ".join(
            f"class {number} is {own!r} there, not {other!r}" for number, other, own in pairs[:MOST_SHOWN]
        )
        return shown + more


def distinct(number: int) -> Colour:
    """Default colour of a class number: hues in steps of the golden angle, in several shades."""
    saturation, value = 0.75 - 0.3 * (number % 2), 0.95 - 0.3 * (number % 3 == 2)
    red, green, blue = colorsys.hsv_to_rgb((0.6 + 0.618034 * number) % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _is_colour(colour: Any) -> bool:
    return (
        isinstance(colour, tuple | list)
        and len(colour) == 3
        and all(isinstance(part, Integral) and 0 <= int(part) <= 255 for part in colour)
    )


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:MOST_SHOWN])}{', ...' if len(names) > MOST_SHOWN else ''})"
