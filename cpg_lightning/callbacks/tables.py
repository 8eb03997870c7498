"""The scores of an evaluation as tables: in the terminal and as CSV files."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from cpg_lightning.metrics.evaluation import ImageScores, Scores
from cpg_lightning.module import SegmentationModule

COLUMNS = ("name", "boundary_iou", "mIoU", "pixel_accuracy")  # columns of the table of images


def score_table(module: SegmentationModule, scores: Scores, stage: str) -> Table:
    """Return a table of the scores of each class, and the means below."""
    columns, *rows = class_rows(module, scores)
    table = Table(title=f"the last {'test' if stage == 'test' else 'validation'}", min_width=30)
    for column in columns[:-1]:
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, *values in rows:
        table.add_row(name, *("absent" if np.isnan(value) else f"{value:.4f}" for value in values[:-1]))
    table.add_section()
    for name, mean in scores.means.items():
        table.add_row(name, f"{mean.item():.4f}")
    if scores.boundary_iou is not None:
        table.caption = f"boundary IoU: {module.classes.dilation_ratio:g} of the diagonal{_last_width(module)}"
    return table


def _last_width(module: SegmentationModule) -> str:
    """Return the band width of the boundary IoU in the last image, as text; empty before the first image."""
    size = module.metrics.boundary_iou.last_size
    return "" if size is None else f", {module.metrics.boundary_iou.width(*size)} pixels at {size[0]}x{size[1]}"


def class_rows(module: SegmentationModule, scores: Scores) -> list[list[Any]]:
    """Return the columns, and a row for each class: name, IoU, boundary IoU if it was computed, labelled pixels."""
    parts = {"IoU": scores.iou.tolist()}
    if scores.boundary_iou is not None:
        parts["boundary IoU"] = scores.boundary_iou.tolist()
    pixels = scores.confusion.sum(dim=1).tolist()
    return [
        ["class", *parts, "pixels"],
        *([name, *values] for name, *values in zip(module.classes.names, *parts.values(), pixels, strict=True)),
    ]


def write_tables(
    folder: Path, stage: str, module: SegmentationModule, scores: Scores, images: Sequence[ImageScores]
) -> list[Path]:
    """Write tables of the means, the classes and the images, the worst boundary IoU first, as CSV. Return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    by_rank = sorted(images, key=lambda each: (np.isnan(each.boundary_iou), each.boundary_iou))
    ratio = module.classes.dilation_ratio
    tables: dict[str, list[list[Any]]] = {
        "means": [
            ["score", "value"],
            *([name, mean.item()] for name, mean in scores.means.items()),
            ["dilation_ratio", ratio],
        ],
        "classes": class_rows(module, scores),
        "images": [list(COLUMNS), *([getattr(each, column) for column in COLUMNS] for each in by_rank)],
    }
    paths = []
    for name, rows in tables.items():
        paths.append(folder / f"{stage}-{name}.csv")
        # The name of an image may not be UTF-8.
        with paths[-1].open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    if images:
        paths.append(folder / f"{stage}-counts.npz")
        write_counts(paths[-1], module, images)
    return paths


def write_counts(path: Path, module: SegmentationModule, images: Sequence[ImageScores]) -> None:
    """Write the pixel counts of each image, from which any score over images can be computed.

    The file has these arrays: ``names`` (N), the names of the images; ``classes`` (C), the names of the classes; ``region``,
    int64 (N, C, 3), intersection, prediction and label pixels; ``boundary``, the same counts in the boundary bands;
    ``absent``, the rule of the mIoU for a class that is absent from the labels.
    """
    arrays: dict[str, Any] = {
        "names": np.array([each.name for each in images]),
        "classes": np.array(module.classes.names),
        "region": np.stack([each.region for each in images]),
        "boundary": np.stack([each.boundary for each in images]),
        "absent": np.array(module.classes.absent_classes),
    }
    partial = path.with_name(f".{path.name}")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)
