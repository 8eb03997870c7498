"""``cpg check-data``: statistics and problems of a dataset."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from jsonargparse import SUPPRESS, ActionConfigFile  # type: ignore[attr-defined]
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from torch.utils.data import DataLoader

from cpg_lightning.cores import available_cores
from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.data.dataset import SegmentationDataset
from cpg_lightning.data.description import Split
from cpg_lightning.data.sampling import SeededIndex
from cpg_lightning.data.workers import init_worker
from cpg_lightning.errors import original_error
from cpg_lightning.inspection import Findings, Inspection, sum_findings
from cpg_lightning.parsing import YAML, Parser
from cpg_lightning.pictures import contact_sheet

Weighting = Literal["inverse_log", "median_frequency"]
FORMULAS = {
    "inverse_log": "1 / ln(1.02 + share of the pixels)",
    "median_frequency": "median of the frequencies / frequency in the images that have the class",
}

LABELLED = ("train", "val")  # splits that need labels
MOST_NAMES = 10  # largest number of class names in a note
CROPS = 16  # number of crops on the contact sheet
CHUNK = 8  # number of images in one batch of a worker


def check_data(args: Sequence[str] | None = None) -> int:
    """Inspect every file of a configured dataset: ``cpg check-data --config FILE [options]``.

    For each split, it prints

    - the number of images, and the published number,
    - the sizes and modes of the images,
    - for each class: the share of the pixels, the number of images, and the share of its pixels next to another class,
    - label values without a class, and files that are missing, broken or do not match.

    It also draws a sheet of training crops.

    One run reports all problems; it does not stop at the first one. There are three kinds of messages. *Wrong* is a certain
    problem. *Suspicious* is a probable problem, and counts as one. A *note* is no problem, for example a class that does
    not occur in the labels of a split.

    Args:
        args: The command's arguments after its name, ``sys.argv`` by default.

    Returns:
        The exit status: 1 if anything is wrong, else 0.
    """
    parser = _parser()
    options = parser.parse_args(args)
    try:
        data = parser.instantiate_classes(options).data
    except ValueError as error:
        raise original_error(error) from None
    console = Console(emoji=False)  # names such as :car: stay as they are
    workers = available_cores() if options.num_workers is None else options.num_workers
    counted: dict[Split, Findings] = {}
    for split in options.splits or data.splits:
        counted[split] = inspect_split(data, split, workers, console)
        _show(data, split, counted[split], console)
    if options.crops and counted.get("train"):
        _draw_crops(data, Path(options.crops), int(options.seed_everything or 0), console)
    if options.class_weights:
        write_class_weights(data, counted.get("train"), options.weighting, Path(options.class_weights))
        place = options.class_weights
        said = f"class weights: {place}; use them with --model.criterion {place}"
        console.print(said, soft_wrap=True, highlight=False, markup=False)
    problems = sum(findings.problems for findings in counted.values())
    console.print(f"[red]{problems} problem{'s'[: problems > 1]}" if problems else "[green]no problems found")
    return int(problems > 0)


def inspect_split(data: SegmentationDataModule, split: Split, workers: int, console: Console) -> Findings:
    """Inspect every file of a split, in several worker processes."""
    total, dataset = list_split(data, split, training=False)
    if dataset is None or not len(dataset):
        return total
    loader = DataLoader(
        Inspection(dataset),
        batch_size=CHUNK,
        num_workers=min(workers, len(dataset)),
        collate_fn=sum_findings,
        worker_init_fn=init_worker,
    )
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(split, total=len(dataset))
        for findings in loader:
            total.add(findings)
            progress.update(task, advance=findings.images)
    published = data.official_counts.get(split)
    if published not in (None, total.images):
        total.wrong(f"expected the {published} images of the {split} split as published, got {total.images}")
    if not dataset.labelled and split in LABELLED:
        total.wrong(
            f"expected labels for the {split} split, got none for its {total.images} images. {data.explain_missing_labels(split)}"
        )
    if total.pixels.any():
        _check_totals(data, split, total)
    return total


def list_split(
    data: SegmentationDataModule, split: Split, training: bool
) -> tuple[Findings, SegmentationDataset | None]:
    """List the files of a split. Return its problems, and the dataset of the files without problems, or None."""
    findings, dataset = Findings(), None
    data.tree.problems, data.tree.notes = [], []
    try:
        dataset = data.dataset(split, training)
    except (OSError, ValueError) as error:
        data.tree.problems.append(str(error))
    for message in data.tree.problems:
        findings.wrong(message)
    findings.notes = data.tree.notes
    data.tree.problems = None
    return findings, dataset


def _check_totals(data: SegmentationDataModule, split: Split, total: Findings) -> None:
    """Add the problems and notes that follow from the pixel counts of a whole split."""
    absent = [
        name for name, value in zip(data.classes.names, data.label_values, strict=True) if not total.pixels[value]
    ]
    known = total.pixels[[*data.label_values, *data.void_values]].sum()
    if len(absent) == data.num_classes and known == total.pixels.sum():
        total.wrong(f"expected labelled pixels, got none: each pixel of the {split} labels has a value that is ignored")
    elif absent:
        names = ", ".join(absent[:MOST_NAMES]) + (
            f" and {len(absent) - MOST_NAMES} more" if len(absent) > MOST_NAMES else ""
        )
        total.notes.append(f"no label of the {split} split has {names}")
    for suspicion in data.suspicions(total.pixels):
        total.suspicious(suspicion)


def class_weights(data: SegmentationDataModule, findings: Findings, weighting: Weighting) -> list[float]:
    """Compute the weight of each class from its frequency. The weight of a class that does not occur is 1.

    Args:
        data: The data module with the classes.
        findings: The findings of the training split.
        weighting: ``"inverse_log"``: ``1 / ln(1.02 + share of the pixels)`` (Paszke et al., "ENet", 2016).
            ``"median_frequency"``: the median frequency of all classes, divided by the frequency of the class. The frequency
            is the share of the class in the labelled pixels of the images that contain it (Eigen and Fergus, 2015).
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
    """Write a configuration file for ``--model.criterion`` with class weights.

    Raises:
        ValueError: If there are no training labels.
    """
    if findings is None or not findings.pixels[list(data.label_values)].any():
        raise ValueError(f"expected training labels, to compute class weights from, got none in {data.root}")
    criterion = {
        "class_path": "CrossEntropyCPGLoss",
        "init_args": {"cpg_weight": 1.0, "class_weights": class_weights(data, findings, weighting)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"# Class weights from {findings.images} training images of {type(data).__name__}, written by cpg check-data:\n"
        f"# {weighting}, {FORMULAS[weighting]}.\n{yaml.safe_dump(criterion, sort_keys=False, default_flow_style=None, width=110)}"
    )


def _show(data: SegmentationDataModule, split: Split, findings: Findings, console: Console) -> None:
    """Print the findings of a split."""
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
        console.print(f"[red]wrong:[/red] {escape(message)}", soft_wrap=True, highlight=False)
    hidden = findings.problems - len(findings.messages) - len(findings.suspicions)
    if hidden:
        console.print(f"[red]and {hidden} more")
    for kind, messages in (("[red]suspicious:[/red]", findings.suspicions), ("note:", findings.notes)):
        for message in messages:
            console.print(f"{kind} {escape(message)}", soft_wrap=True, highlight=False)


def _class_table(data: SegmentationDataModule, findings: Findings) -> Table:
    table = Table("value", "class")
    for column in ("pixels", "images", "at a boundary"):
        table.add_column(column, justify="right")
    names: dict[int, str | Text] = {
        **dict(zip(data.label_values, map(Text, data.classes.names), strict=True)),
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
    """Draw a sheet of random training crops with their labels. Crops of unreadable files are skipped."""
    _, dataset = list_split(data, "train", training=True)
    if dataset is None or not len(dataset) or not dataset.labelled:
        return  # reported already
    crops: list[tuple[np.ndarray, np.ndarray]] = []
    for index in np.random.default_rng(seed).choice(len(dataset), CROPS, replace=len(dataset) < CROPS):
        try:
            item = dataset[SeededIndex(int(index), (seed, len(crops)))]
        except (OSError, ValueError):
            continue
        crops.append((item["image"].permute(1, 2, 0).numpy(), item["mask"].numpy()))
    if crops:
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(crops, data.classes).save(path)
        console.print(f"training crops: {path}", soft_wrap=True, highlight=False, markup=False)


def _parser() -> Parser:
    parser = Parser(
        prog="cpg check-data",
        parser_mode=YAML,
        description="Inspect every file of a dataset, and print its statistics and its problems.",
        usage="cpg check-data --config FILE [options]",
    )
    parser.add_argument(
        "--config", action=ActionConfigFile, help="a configuration file of cpg fit; only its data section is used"
    )
    parser.add_subclass_arguments(SegmentationDataModule, "data", required=True)
    parser.add_argument("--splits", type=list[Split] | None, help="the splits to inspect; all by default")
    parser.add_argument(
        "--num_workers", type=int | None, help="number of worker processes; by default, the number of available cores"
    )
    parser.add_argument("--crops", type=str | None, default="check-data.png", help="picture file of the training crops")
    parser.add_argument(
        "--class_weights", type=str | None, help="YAML file to write, with a criterion that has class weights"
    )
    parser.add_argument("--weighting", type=Weighting, default="inverse_log", help="formula of the class weights")
    parser.add_argument("--seed_everything", type=bool | int, default=0, help="seed of the training crops")
    # A configuration file of a training may have these sections and options. They are not used.
    for section in ("model", "trainer"):
        parser.add_argument(f"--{section}", type=dict, help=SUPPRESS)
    for option in ("ckpt_path", "output", "overwrite", "run", "weights_only"):
        parser.add_argument(f"--{option}", help=SUPPRESS)
    return parser
