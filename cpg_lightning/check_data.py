"""``cpg check-data``: what is in a dataset, and what is wrong with it."""

import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import yaml
from jsonargparse import SUPPRESS, ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.data.base import Split, one_thread
from cpg_lightning.data.class_table import UNKNOWN
from cpg_lightning.data.dataset import FileDataset, SegmentationDataset
from cpg_lightning.data.sampling import Draw
from cpg_lightning.pictures import boundary_band, contact_sheet

Weighting = Literal["inverse_log", "median_frequency"]
FORMULAS = {
    "inverse_log": "1 / ln(1.02 + share of the pixels)",
    "median_frequency": "median of the frequencies / frequency in the images that have the class",
}

MOST_PROBLEMS = 20  # shown of a split; all are counted
CROPS = 16  # on the contact sheet
CHUNK = 8  # images that a worker looks at in one go


def check_data(args: Sequence[str] | None = None) -> int:
    """Look at every file of a configured dataset: ``cpg check-data --config FILE [options]``.

    Prints, for each split, the number of images against the published one, their sizes and modes, the share of pixels and
    the number of images of each class, the share of each class's pixels that are next to another class, label values that
    the dataset does not have, and files that are missing, broken or do not match. Draws a sheet of training crops.

    Args:
        args: The command's arguments after its name, ``sys.argv`` by default.

    Returns:
        The exit status: 1 if anything is wrong, else 0.
    """
    parser = _parser()
    options = parser.parse_args(args)
    data = parser.instantiate_classes(options).data
    console = Console()
    cores = os.cpu_count() or 1
    workers = cores if options.num_workers is None else options.num_workers
    counted: dict[Split, Findings] = {}
    for split in options.splits or data.splits:
        counted[split] = look(data, split, workers, console)
        _show(data, split, counted[split], console)
    if options.crops and counted.get("train"):
        _draw_crops(data, Path(options.crops), options.seed_everything or 0, console)
    if options.class_weights:
        write_class_weights(data, counted.get("train"), options.weighting, Path(options.class_weights))
        console.print(f"class weights: {options.class_weights}; use them by --model.criterion {options.class_weights}")
    problems = sum(findings.problems for findings in counted.values())
    console.print(f"[red]{problems} problem{'s'[: problems > 1]}" if problems else "[green]nothing is wrong")
    return int(problems > 0)


@dataclass
class Findings:
    """What is in some images, and what is wrong with them.

    Attributes:
        images: Number of images.
        pixels: Pixels of each label value, int64 (256).
        images_with: Images that have each label value, int64 (256).
        pixels_beside: Labelled pixels of the images that have each label value, int64 (256).
        boundary: Pixels of each label value next to another class, int64 (256).
        heights: Smallest and largest height in pixels.
        widths: Smallest and largest width in pixels.
        modes: Number of files of each mode.
        problems: How often something is wrong.
        messages: What is wrong, the first so many.
    """

    images: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    pixels_beside: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    boundary: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    heights: tuple[int, int] = (2**31, 0)
    widths: tuple[int, int] = (2**31, 0)
    modes: Counter[str] = field(default_factory=Counter)
    problems: int = 0
    messages: list[str] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Add what is in other images."""
        self.images += other.images
        self.pixels += other.pixels
        self.images_with += other.images_with
        self.pixels_beside += other.pixels_beside
        self.boundary += other.boundary
        self.heights = min(self.heights[0], other.heights[0]), max(self.heights[1], other.heights[1])
        self.widths = min(self.widths[0], other.widths[0]), max(self.widths[1], other.widths[1])
        self.modes += other.modes
        self.problems += other.problems
        self.messages = (self.messages + other.messages)[:MOST_PROBLEMS]

    def wrong(self, message: str) -> None:
        """Add something that is wrong."""
        self.add(Findings(problems=1, messages=[message]))


def look(data: SegmentationDataModule, split: Split, workers: int, console: Console) -> Findings:
    """Look at every file of a split, with so many worker processes."""
    total = Findings()
    try:
        dataset = data.dataset(split, training=False)
    except (OSError, ValueError) as error:
        total.wrong(str(error))
        return total
    loader = DataLoader(
        _Inspection(dataset, data.ignore_index),
        batch_size=CHUNK,
        num_workers=min(workers, len(dataset)),
        collate_fn=_sum,
        worker_init_fn=one_thread,
    )
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(split, total=len(dataset))
        for findings in loader:
            total.add(findings)
            progress.update(task, advance=findings.images)
    published = data.official_counts.get(split)
    if published not in (None, total.images):
        total.wrong(f"expected the {published} images of the {split} split as published, got {total.images}")
    return total


def class_weights(data: SegmentationDataModule, findings: Findings, weighting: Weighting) -> list[float]:
    """The weight of each class, by its frequency; 1 for a class that does not occur.

    Args:
        data: Whose classes.
        findings: Of the training split.
        weighting: ``"inverse_log"``: ``1 / ln(1.02 + share of the pixels)`` (Paszke et al., "ENet", 2016).
            ``"median_frequency"``: the median of the frequencies by the class's own, which is its share of the labelled
            pixels of the images that have it (Eigen and Fergus, 2015).
    """
    values = list(data.label_values)
    pixels = findings.pixels[values].astype(np.float64)
    if weighting == "inverse_log":
        weights = 1 / np.log(1.02 + pixels / pixels.sum())
    else:
        frequency = pixels / np.maximum(findings.pixels_beside[values], 1)
        weights = np.median(frequency[pixels > 0]) / np.where(pixels > 0, frequency, 1)
    return [round(float(weight), 4) if count else 1.0 for weight, count in zip(weights, pixels, strict=True)]


def write_class_weights(
    data: SegmentationDataModule, findings: Findings | None, weighting: Weighting, path: Path
) -> None:
    """Write a criterion with class weights, as ``--model.criterion`` takes it.

    Raises:
        ValueError: If there are no training labels.
    """
    if findings is None or not findings.pixels[list(data.label_values)].any():
        raise ValueError(f"expected training labels to weigh classes by, got none in {data.root}")
    criterion = {
        "class_path": "CrossEntropyCPGLoss",
        "init_args": {"cpg_weight": 1.0, "class_weights": class_weights(data, findings, weighting)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"# Class weights from {findings.images} training images of {type(data).__name__}, written by cpg check-data:\n"
        f"# {weighting}, {FORMULAS[weighting]}.\n{yaml.safe_dump(criterion, sort_keys=False, default_flow_style=None, width=110)}"
    )


class _Inspection(Dataset[Findings]):
    """What is in each image of a dataset."""

    def __init__(self, dataset: SegmentationDataset, ignore_index: int) -> None:
        self.dataset = dataset
        self.ignore_index = ignore_index

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Findings:
        findings = Findings(images=1)
        try:
            image, label, _ = self.dataset.read(index)
            findings.modes = self._modes(index)
        except (OSError, ValueError) as error:
            findings.wrong(str(error))
            return findings
        findings.heights, findings.widths = (image.shape[0],) * 2, (image.shape[1],) * 2
        if label is None:
            return findings
        mask = cv2.LUT(label, self.dataset.label_table)
        if (mask == UNKNOWN).any():
            findings.wrong(self.dataset.unknown(index, label))
        mask[mask == UNKNOWN] = self.ignore_index
        findings.pixels = np.bincount(label.ravel(), minlength=256)
        findings.images_with = (findings.pixels > 0).astype(np.int64)
        findings.pixels_beside = findings.images_with * int((mask != self.ignore_index).sum())
        band = boundary_band(mask, radius=1, ignore_index=self.ignore_index)
        findings.boundary = np.bincount(label[band], minlength=256)
        return findings

    def _modes(self, index: int) -> Counter[str]:
        if not isinstance(self.dataset, FileDataset):
            return Counter()
        modes: Counter[str] = Counter()
        for what, path in zip(("image", "label"), self.dataset.files[index], strict=True):
            if path is not None and path.suffix != ".mat":
                with Image.open(io.BytesIO(self.dataset.tree.read(path))) as opened:  # the header alone
                    modes[f"{what} {opened.mode}"] += 1
        return modes


def _sum(findings: list[Findings]) -> Findings:
    total = Findings()
    for each in findings:
        total.add(each)
    return total


def _show(data: SegmentationDataModule, split: Split, findings: Findings, console: Console) -> None:
    """Print what was found in a split."""
    published = data.official_counts.get(split)
    console.rule(f"{type(data).__name__}: {split}")
    console.print(f"{findings.images} images" + (f" of {published} published" if published else ""))
    if findings.heights[1]:
        sides = " x ".join(
            str(low) if low == high else f"{low}..{high}" for low, high in (findings.heights, findings.widths)
        )
        modes = ", ".join(f"{mode}: {count}" for mode, count in findings.modes.most_common())
        console.print(f"height x width: {sides} pixels; {modes}" if modes else f"height x width: {sides} pixels")
    if findings.pixels.any():
        console.print(_class_table(data, findings))
    for message in findings.messages:
        console.print(f"[red]wrong:[/red] {message}", soft_wrap=True, highlight=False)
    if findings.problems > len(findings.messages):
        console.print(f"[red]and {findings.problems - len(findings.messages)} more")


def _class_table(data: SegmentationDataModule, findings: Findings) -> Table:
    table = Table("value", "class")
    for column in ("pixels", "images", "at a boundary"):
        table.add_column(column, justify="right")
    names = {
        **dict(zip(data.label_values, data.class_names, strict=True)),
        **dict.fromkeys(data.void_values, "ignored"),
    }
    values = [*data.label_values, *sorted(set(findings.pixels.nonzero()[0].tolist()) - set(data.label_values))]
    total = findings.pixels.sum()
    for value in values:
        pixels = int(findings.pixels[value])
        name = names.get(value, "[red]unknown")
        if not pixels:
            table.add_row(str(value), name, "[yellow]absent", "0", "")
            continue
        boundary = f"{findings.boundary[value] / pixels:.1%}" if value in data.label_values else ""
        table.add_row(str(value), name, f"{pixels / total:.2%}", str(findings.images_with[value]), boundary)
    return table


def _draw_crops(data: SegmentationDataModule, path: Path, seed: int, console: Console) -> None:
    """A sheet of random training crops with their labels; those that cannot be read are left out."""
    try:
        dataset = data.dataset("train", training=True)
    except (OSError, ValueError):
        return  # it was said already
    crops: list[tuple[np.ndarray, np.ndarray]] = []
    for index in np.random.default_rng(seed).choice(len(dataset), CROPS, replace=len(dataset) < CROPS):
        try:
            item = dataset[Draw(int(index), (seed, len(crops)))]
        except (OSError, ValueError):
            continue
        crops.append((item["image"].permute(1, 2, 0).numpy(), item["mask"].numpy()))
    if crops:
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(crops, data.palette, data.class_names, data.ignore_index).save(path)
        console.print(f"training crops: {path}", soft_wrap=True, highlight=False)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="cpg check-data",
        description="Look at every file of a dataset, and say what is in it and what is wrong with it.",
        usage="cpg check-data --config FILE [options]",
    )
    parser.add_argument(
        "--config", action=ActionConfigFile, help="a configuration as of cpg fit; its data is looked at"
    )
    parser.add_subclass_arguments(SegmentationDataModule, "data", required=True)
    parser.add_argument("--splits", type=list[Split] | None, help="the splits to look at; all by default")
    parser.add_argument(
        "--num_workers", type=int | None, help="worker processes; as many as there are cores by default"
    )
    parser.add_argument("--crops", type=str | None, default="check-data.png", help="where the training crops are drawn")
    parser.add_argument("--class_weights", type=str | None, help="where a criterion with class weights is written")
    parser.add_argument("--weighting", type=Weighting, default="inverse_log", help="how classes are weighed")
    parser.add_argument("--seed_everything", type=int, default=0, help="seed of the training crops")
    for section in ("model", "trainer"):  # what else a configuration has
        parser.add_argument(f"--{section}", type=dict, help=SUPPRESS)
    return parser
