"""Texts and tables, written as Markdown, to the terminal and as CSV."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

SPECIAL = re.compile(r"([\\`*\[\]<>|])")


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """Paragraphs, or the items of a list if ``points`` is true."""

    lines: Sequence[str]
    points: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows of texts. The first ``left`` columns are words, aligned left; the others are numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    in_terminal: bool = True


@dataclass(frozen=True)
class Picture:
    """A picture in the folder of the document."""

    file: str
    caption: str


Block = Heading | Text | Table | Picture
Row = Sequence[str | int | float]  # of a CSV file


def as_markdown(blocks: Iterable[Block]) -> str:
    """The document as Markdown."""
    parts = []
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {_escaped(text)}")
            case Text(lines, points):
                start, gap = ("- ", "\n") if points else ("", "\n\n")
                parts.append(gap.join(start + _escaped(line) for line in lines))
            case Table(columns, rows, left):
                rules = [":--" if index < left else "--:" for index in range(len(columns))]
                cells = [[_escaped(cell) for cell in row] for row in (columns, *rows)]
                parts.append("\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rules, *cells[1:])))
            case Picture(file, caption):
                parts.append(f"![{_escaped(caption)}]({file})\n\n{_escaped(caption)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def print_document(blocks: Iterable[Block], console: Console) -> None:
    """Print the document, without pictures and without tables that are too long for a terminal."""
    for block in blocks:
        match block:
            case Heading(text, _):
                console.print(f"\n{text}", style="bold", markup=False, highlight=False)
            case Text(lines, points):
                for line in lines:
                    console.print(("- " if points else "") + line, markup=False, highlight=False)
            case Table(columns, rows, left) if block.in_terminal:
                table = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
                for index, column in enumerate(columns):
                    number = index >= left
                    table.add_column(
                        escape(column), justify="right" if number else "left", no_wrap=number, overflow="fold"
                    )
                for row in rows:
                    table.add_row(*map(escape, row))
                console.print(table)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a table; NaN becomes an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if isinstance(cell, float) and isnan(cell) else cell for cell in row] for row in rows])


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text)
