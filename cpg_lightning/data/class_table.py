"""The classes of a dataset, from a small file."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

COLUMNS = ["value", "name", "color"]
MOST_CLASSES = 254  # the two other values of a byte are UNKNOWN and ignore_index
UNKNOWN = 254  # in a label table: a value that the dataset does not have

EXAMPLE = "value,name,color\n0,background,#464650\n1,crack,#dc506e\n255,,"


class ClassTable(NamedTuple):
    """What a file of classes says.

    Attributes:
        names: Name of each class.
        palette: Colour of each class, RGB.
        values: The value of each class in label files.
        void: The values in label files that are ignored.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    values: tuple[int, ...]
    void: tuple[int, ...]


def read_classes(path: Path) -> ClassTable:
    """Read a CSV file with a line for each value that label files may have, the classes in their order.

    ::

        value,name,color
        0,background,#464650
        1,crack,#dc506e
        255,,

    A line without a name is a value to ignore.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line of it is wrong, a value or a name occurs twice, or there are no classes or over 254.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected the file of classes {path}, got none; for example:\n{EXAMPLE}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            rows, columns = list(reader), reader.fieldnames
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"expected comma-separated values in UTF-8, got {error}: {path}; for example:\n{EXAMPLE}"
        ) from error
    if columns != COLUMNS:
        raise ValueError(
            f"expected the first line to be {','.join(COLUMNS)}, got {','.join(columns or [])}: {path}; for example:\n{EXAMPLE}"
        )
    classes: list[tuple[int, str, tuple[int, int, int]]] = []
    void: list[int] = []
    for number, row in enumerate(rows, start=2):
        try:
            value, name, colour = _parsed(row)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"expected each line to be a value from 0 to 255, a name and a colour, got line {number} ({error}): "
                f"{path}; for example:\n{EXAMPLE}"
            ) from error
        if name:
            classes.append((value, name, colour))
        else:
            void.append(value)
    names, values = [name for _, name, _ in classes], [value for value, _, _ in classes]
    for what, entries in (("value", [str(value) for value in values + void]), ("name", names)):
        twice = sorted(entry for entry in set(entries) if entries.count(entry) > 1)
        if twice:
            raise ValueError(f"expected each {what} once, got {', '.join(twice)} more than once: {path}")
    if not 0 < len(classes) <= MOST_CLASSES:
        raise ValueError(f"expected from 1 to {MOST_CLASSES} classes, got {len(classes)}: {path}")
    return ClassTable(tuple(names), tuple(colour for _, _, colour in classes), tuple(values), tuple(void))


def official(dataset: str) -> ClassTable:
    """The classes of a dataset that comes with the package."""
    return read_classes(Path(__file__).parent / "classes" / f"{dataset}.csv")


def label_table(values: tuple[int, ...] | range, void: tuple[int, ...], ignore_index: int) -> np.ndarray:
    """The class, ``ignore_index`` or ``UNKNOWN`` for each of the 256 values of a label file, uint8 (256)."""
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    table[list(values)] = np.arange(len(values))
    table[list(void)] = ignore_index
    return table


def _parsed(row: dict[str, str]) -> tuple[int, str, tuple[int, int, int]]:
    """Value, name and colour of a line."""
    value, name, colour = int(row["value"]), row["name"].strip(), row["color"].strip().removeprefix("#")
    if not 0 <= value <= 255:
        raise ValueError(f"value {value}")
    if name and len(colour) != 6:
        raise ValueError(f"colour {row['color']!r} instead of #rrggbb")
    red, green, blue = bytes.fromhex(colour or "000000")
    return value, name, (red, green, blue)
