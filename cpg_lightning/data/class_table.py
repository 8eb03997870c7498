"""Reading the classes of a dataset from a small file."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cpg_lightning.data.class_info import IGNORED, MOST_CLASSES, Colour, distinct

COLUMNS = {"value": ("value", "pixel value"), "name": ("name", "class"), "color": ("color",)}  # names used by tools
UNKNOWN = 254  # entry of a label table for a value that is not in the dataset

EXAMPLE = "value,name,color\n0,background,#464650\n1,crack,#dc506e\n255,,"


class ClassTable(NamedTuple):
    """The content of a file of classes.

    Attributes:
        names: Name of each class.
        palette: Colour of each class, RGB.
        values: Value of each class in label files.
        void: Ignored values in label files.
        void_palette: Colour of each ignored value; None for a value without a colour.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    values: tuple[int, ...]
    void: tuple[int, ...]
    void_palette: tuple[Colour | None, ...] = ()


class Row(NamedTuple):
    """A line of a file of classes. A line without a name is an ignored value."""

    line: int
    value: int | None
    name: str
    colour: Colour | None


def read_classes(path: Path, colours: bool = False) -> ClassTable:
    """Read a file of classes: one line per value or colour in label files, in the order of the classes.

    The file is a CSV file, or the ``labelmap.txt`` of CVAT's segmentation masks::

        value,name,color            Pixel Value, Class            # label:color_rgb:parts:actions
        0,background,#464650        0, background                 background:0,0,0::
        1,crack,#dc506e             1, crack                      crack:220,80,110::
        255,,

    A line without a name is an ignored value or colour. Classes without a colour get one.

    Args:
        path: The file. A file with the suffix .txt is read as a labelmap.
        colours: Whether label files have the colours of the classes. Then each line needs a colour, and values are
            optional: by default they are the numbers of the lines, from 0.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a line is wrong, if a value, a name or a colour of label files occurs twice, or if there are
            fewer than 2 or more than 254 classes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected the file of classes {path}, got none; for example:\n{EXAMPLE}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if "\0" in text:
            raise csv.Error("UTF-16 or no text")
        rows = list(_labelmap(text, path) if path.suffix.lower() == ".txt" else _csv(text, path, colours))
    except (UnicodeDecodeError, csv.Error) as error:
        reason = "UTF-16" if path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff") else error
        raise ValueError(
            f"expected comma-separated values in UTF-8, got {reason}: {path}; for example:\n{EXAMPLE}"
        ) from error
    if colours:
        rows = [row._replace(value=number if row.value is None else row.value) for number, row in enumerate(rows)]
        without = [str(row.line) for row in rows if row.colour is None and row.name]
        if without:
            raise ValueError(f"expected a colour of each class, got none in line {', '.join(without)}: {path}")
    elif any(row.value is None for row in rows):
        raise ValueError(
            f"expected the value of each class in the labels, got a file without values: {path}; for labels in the classes' "
            "colours set --data.label_colors true"
        )
    _check_once("value", [(str(row.value), row.line) for row in rows], path)
    _check_once("name", [(row.name, row.line) for row in rows if row.name], path)
    if colours:
        _check_once("colour", [(hexadecimal(row.colour), row.line) for row in rows if row.colour], path)
    classes, void = [row for row in rows if row.name], [row for row in rows if not row.name]
    if not 2 <= len(classes) <= MOST_CLASSES:
        advice = "; name the background as a class" if len(classes) == 1 else ""
        expected = f"at most {MOST_CLASSES}" if len(classes) > 2 else "2 or more"
        raise ValueError(f"expected {expected} classes, got {len(classes)}: {path}{advice}")
    return ClassTable(
        tuple(row.name for row in classes),
        tuple(row.colour or distinct(number) for number, row in enumerate(classes)),
        tuple(row.value or 0 for row in classes),
        tuple(row.value or 0 for row in void),
        tuple(row.colour for row in void),
    )


def official(dataset: str) -> ClassTable:
    """The classes of a supported dataset, from the package's own file."""
    return read_classes(Path(__file__).parent / "classes" / f"{dataset}.csv")


def label_table(values: tuple[int, ...] | range, void: tuple[int, ...]) -> np.ndarray:
    """Table from each of the 256 values of a label file to a class, 255 (ignored) or ``UNKNOWN``, uint8 (256)."""
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    table[list(values)] = np.arange(len(values))
    table[list(void)] = IGNORED
    return table


def label_values_of(mask: np.ndarray, values: tuple[int, ...], void: tuple[int, ...]) -> np.ndarray:
    """Classes as values of label files; see :meth:`~cpg_lightning.data.SegmentationDataModule.to_label_values`."""
    wrong = (mask < 0) | (mask >= len(values))
    if void:
        wrong &= mask != IGNORED
    if wrong.any():
        ignored = f" or {IGNORED}" if void else ""
        raise ValueError(
            f"expected classes from 0 to {len(values) - 1}{ignored}, got {np.unique(mask[wrong])[:10].tolist()}"
        )
    table = np.full(256, (void or (0,))[0], dtype=np.uint8)
    table[: len(values)] = values
    return table[mask]


def hexadecimal(colour: Colour) -> str:
    """A colour in the notation of a file of classes.

    Example:
        >>> hexadecimal((220, 80, 110))
        '#dc506e'
    """
    return "#" + bytes(colour).hex()


def _check_once(what: str, entries: list[tuple[str, int]], path: Path) -> None:
    """Check that no entry occurs in several lines."""
    lines: dict[str, list[int]] = {}
    for entry, line in entries:
        lines.setdefault(entry, []).append(line)
    twice = [
        f"{entry} more than once, in lines {', '.join(map(str, at))}" for entry, at in lines.items() if len(at) > 1
    ]
    if twice:
        raise ValueError(f"expected each {what} once, got {'; '.join(twice)}: {path}")


def _csv(text: str, path: Path, colours: bool) -> Iterator[Row]:
    """The lines of a CSV file after its header."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    header = [column.strip().lower() for column in next(reader, [])]
    place = {column: header.index(name) for column, names in COLUMNS.items() for name in names if name in header}
    if not {"name", "color" if colours else "value"} <= place.keys():
        first = ",".join(header)
        separator = next(
            (f"; its values are separated by {each!r}: save it with commas" for each in ";\t|" if each in first), ""
        )
        raise ValueError(
            f"expected the first line to be value,name,color, got {first}: {path}{separator}; for example:\n{EXAMPLE}"
        )
    for cells in reader:
        if not cells:
            continue
        try:
            if not any(cell.strip() for cell in cells):
                raise ValueError("nothing but commas: remove the line")
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} values for {len(header)} columns")
            row = {column: cells[position].strip() for column, position in place.items()}
            value = int(row["value"]) if "value" in row else None
            if value is not None and not 0 <= value <= 255:
                raise ValueError(f"value {value}")
            colour = _hexadecimal(row.get("color", ""), needed=bool(row["name"]) and "color" in row)
        except ValueError as error:
            raise ValueError(
                f"expected each line to be a value from 0 to 255, a name and a colour, got line {reader.line_num} ({error}): "
                f"{path}; for example:\n{EXAMPLE}"
            ) from error
        yield Row(reader.line_num, value, row["name"], colour)


def _hexadecimal(text: str, needed: bool) -> Colour | None:
    """The colour of a text #rrggbb; None for an empty text, if the colour is optional."""
    digits = text.removeprefix("#")
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError as error:
        if not digits and not needed:
            return None
        raise ValueError(f"colour {text!r} instead of #rrggbb") from error
    return red, green, blue


def _labelmap(text: str, path: Path) -> Iterator[Row]:
    """The lines of a labelmap: label, colour as three numbers, parts and actions."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, colour, _, _ = line.rsplit(":", 3)
            red, green, blue = (int(each) for each in colour.split(","))
            bytes((red, green, blue))
        except ValueError as error:
            raise ValueError(
                f"expected each line to be label:red,green,blue:parts:actions, got line {number} ({line.strip()}): {path}"
            ) from error
        yield Row(number, None, name.strip(), (red, green, blue))
