"""What a run shows: tables and pictures, in the terminal, in files and in Weights & Biases."""

import csv
import functools
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, Callback
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.data.predicted import PredictionRecord
from cpg_lightning.metrics.evaluation import ImageCounts, ImageScores, image_scores
from cpg_lightning.module import Scores, SegmentationModule
from cpg_lightning.pictures import (
    Colour,
    coloured,
    comparison,
    confusion_picture,
    default_palette,
    overlay,
    trimap_picture,
)

KINDS = ("palette", "labels", "overlay")  # of predictions that are written
MOST_BROKEN = 20  # images that could not be read, in a message
LARGEST_SIDE = 1024  # of a picture sent to Weights & Biases, in pixels


Entry = TypeVar("Entry")


@dataclass
class Example:
    """An image with its label and prediction, as NumPy arrays of one size, and its boundary IoU."""

    name: str
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    boundary_iou: float


class EvaluationReport(Callback):
    """What an evaluation came to: tables, and pictures of a few images.

    To Weights & Biases, in training at every so manieth validation and at the last: the same few images through the run and
    those of the worst boundary IoU, with label and prediction as overlays (``val/examples``, ``val/worst``); the table of
    the classes' IoU (``val/IoU_table``); the confusion matrix and the trimap curve.

    At the end of ``fit``, ``validate`` and ``test``, in the terminal the table, and in the run's folder ``pictures``: image |
    label | prediction | boundary errors of those images, the confusion matrix, the trimap curve. After ``validate`` and
    ``test`` also ``tables``: the classes, and every image, the worst boundary IoU first, as CSV.

    The images are of the first process's share; the tables are of all.

    Args:
        num_images: How many images: the first of each of so many batches, evenly spaced.
        num_worst: How many of the worst.
        every_n_validations: How often they go to Weights & Biases.
        folder: Where ``pictures`` and ``tables`` are; the trainer's ``default_root_dir`` by default.

    Raises:
        ValueError: If a number is less than 1, or of the worst less than 0.
    """

    def __init__(
        self, num_images: int = 4, num_worst: int = 4, every_n_validations: int = 5, folder: str | None = None
    ) -> None:
        for name, number, smallest in (
            ("num_images", num_images, 1),
            ("num_worst", num_worst, 0),
            ("every_n_validations", every_n_validations, 1),
        ):
            if number < smallest:
                raise ValueError(f"expected {name} to be {smallest} or more, got {number}")
        self.num_images = num_images
        self.num_worst = num_worst
        self.every_n_validations = every_n_validations
        self.folder = folder
        self.validations = 0
        self.chosen: set[int] = set()
        self.examples: list[Example] = []
        self.worst: list[Example] = []
        self.images: list[ImageScores] = []
        self.logged = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the images."""
        self._start(int(sum(trainer.num_val_batches)))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the images."""
        self._start(int(sum(trainer.num_test_batches)))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: SegmentationModule,  # type: ignore[override]
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what is to be shown."""
        if not trainer.sanity_checking:
            self._look(trainer, pl_module, outputs, batch, batch_idx)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: SegmentationModule,  # type: ignore[override]
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what is to be shown."""
        self._look(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module: SegmentationModule) -> None:  # type: ignore[override]
        """Log what is due."""
        if trainer.sanity_checking:
            return
        self.validations += 1
        self.logged = False
        if trainer.state.fn == "validate":
            self._finish(trainer, pl_module, "val")
        elif self.validations % self.every_n_validations == 0:
            self._log(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: SegmentationModule) -> None:  # type: ignore[override]
        """Log, draw and print the test."""
        self.logged = False
        self._finish(trainer, pl_module, "test")

    def on_fit_end(self, trainer: L.Trainer, pl_module: SegmentationModule) -> None:  # type: ignore[override]
        """Log, draw and print the last validation."""
        self._finish(trainer, pl_module, "val")

    def state_dict(self) -> dict[str, int]:
        """The number of validations, so that a resumed run logs as often."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """See :meth:`state_dict`."""
        self.validations = state_dict["validations"]

    def _start(self, batches: int) -> None:
        self.chosen = set(np.linspace(0, max(0, batches - 1), self.num_images).round().astype(int).tolist())
        self.examples, self.worst, self.images = [], [], []

    def _look(
        self,
        trainer: L.Trainer,
        module: SegmentationModule,
        outputs: dict[str, Any],
        batch: dict[str, Any],
        batch_idx: int,
    ) -> None:
        """Keep the first image of a chosen batch, the worst images and every image's scores."""
        if trainer.state.fn == "fit" and not trainer.is_global_zero:
            return
        for index, name in enumerate(batch["name"]):
            counts: ImageCounts = outputs["counts"][index]
            scores = None
            if counts.boundary is not None:
                scores = image_scores(name, counts.confusion, counts.boundary, module.ignore_index)
            if scores and trainer.state.fn != "fit":
                self.images.append(scores)
            chosen = batch_idx in self.chosen and index == 0
            value = scores.boundary_iou if scores and not np.isnan(scores.boundary_iou) else np.inf
            room = len(self.worst) < self.num_worst
            worst = scores is not None and (room or any(value < each.boundary_iou for each in self.worst))
            if not trainer.is_global_zero or not (chosen or worst):
                continue
            label, prediction = batch["mask"][index], outputs["prediction"][index]
            example = _example(name, batch["image"][index], label, prediction, float(value), module.ignore_index)
            if chosen:
                self.examples.append(example)
            if worst:
                self.worst = sorted([*self.worst, example], key=lambda each: each.boundary_iou)[: self.num_worst]

    def _finish(self, trainer: L.Trainer, module: SegmentationModule, stage: str) -> None:
        if module.scores is None:
            return
        images = _of_all_processes(self.images)
        if not trainer.is_global_zero:
            return
        if not self.logged:
            self._log(trainer, module, stage)
        console = Console(markup=False, emoji=False)  # names and paths may have brackets in them
        console.print(_table(module, module.scores, stage))
        checkpoint = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if checkpoint and trainer.state.fn == "fit":
            console.print(f"best checkpoint: {checkpoint}", soft_wrap=True, highlight=False)
        folder = Path(self.folder or trainer.default_root_dir)
        for name, picture in {**self._sheets(module), **_charts(module, module.scores)}.items():
            path = folder / "pictures" / f"{stage}-{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            console.print(f"picture: {path}", soft_wrap=True, highlight=False)
        if trainer.state.fn != "fit":
            for path in write_tables(folder / "tables", stage, module, module.scores, images):
                console.print(f"table: {path}", soft_wrap=True, highlight=False)

    def _sheets(self, module: SegmentationModule) -> dict[str, Image.Image]:
        """The images that were kept, by name."""
        sheets = {}
        for name, examples in (("examples", self.examples), ("worst", self.worst)):
            if examples:
                rows = [(each.image, each.label, each.prediction) for each in examples]
                void = _void(module.ignore_index)
                sheets[name] = comparison(rows, _palette(module), module.class_names, void)
        return sheets

    def _log(self, trainer: L.Trainer, module: SegmentationModule, stage: str) -> None:
        self.logged = True
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if module.scores is None or not loggers:
            return
        labels = {**dict(enumerate(module.class_names)), _void(module.ignore_index): "ignored"}
        charts = _charts(module, module.scores)
        for logger in loggers:
            for name, examples in (("examples", self.examples), ("worst", self.worst)):
                if examples:
                    logger.log_image(
                        f"{stage}/{name}",
                        [_shrunk(each.image) for each in examples],
                        step=trainer.global_step,
                        caption=[each.name for each in examples],
                        masks=[_overlays(each, labels) for each in examples],
                    )
            for name, chart in charts.items():
                logger.log_image(f"{stage}/{name}", [chart], step=trainer.global_step)
            columns, *rows = _class_rows(module, module.scores)
            data = [[None if isinstance(each, float) and np.isnan(each) else each for each in row] for row in rows]
            logger.log_table(f"{stage}/IoU_table", columns=columns, data=data, step=trainer.global_step)


class PredictionWriter(BasePredictionWriter):
    """Writes each prediction of ``predict`` under its image's name, at its image's size.

    In a folder each: ``palette``, PNG in the classes' colours; ``labels``, PNG of the values that the dataset's label files
    have, as benchmarks' servers expect them; ``overlay``, PNG of the image with the classes over it and their boundaries
    drawn; and, if the module predicts them, ``probabilities``, NumPy archive with float16 (C, H, W).

    A file is there whole or not at all. Images that cannot be read are left out and, at the end, an error.

    Args:
        folder: Where; ``predictions`` in the trainer's ``default_root_dir`` by default.
        palette: Whether to write the classes' colours.
        labels: Whether to write label values.
        overlay: Whether to write overlays.
    """

    def __init__(
        self, folder: str | None = None, palette: bool = True, labels: bool = True, overlay: bool = True
    ) -> None:
        super().__init__(write_interval="batch")
        self.folder = folder
        self.kinds = [kind for kind, wanted in zip(KINDS, (palette, labels, overlay), strict=True) if wanted]
        self.record: PredictionRecord | None = None  # what `cpg predict --output` has predicted
        self.broken: list[str] = []
        self.place = Path()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing is broken yet."""
        self.broken = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Agree on the folder: each process may have a ``default_root_dir`` of its own."""
        if stage == "predict":
            self.place = Path(
                trainer.strategy.broadcast(self.folder or str(Path(trainer.default_root_dir, "predictions")))
            )

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: SegmentationModule,  # type: ignore[override]
        prediction: Tensor | None,
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the predictions of a batch."""
        self.broken += batch.get("broken", [])
        if prediction is None:
            return
        probabilities = prediction.cpu().numpy() if prediction.is_floating_point() else None
        classes = (prediction.argmax(dim=1) if prediction.is_floating_point() else prediction).cpu().numpy()
        data = getattr(trainer, "datamodule", None)
        for index, name in enumerate(batch["name"]):
            mask = classes[index].astype(np.uint8)
            if self.record is not None:
                self.record.add(name, "begun", trainer.global_rank)
            if probabilities is not None:
                self._save("probabilities", f"{name}.npz", functools.partial(_save_array, probabilities[index]))
            if "overlay" in self.kinds:
                image = np.ascontiguousarray(batch["image"][index].permute(1, 2, 0).cpu().numpy())
                image = cv2.resize(image, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
                drawn = overlay(image, mask, _palette(pl_module), pl_module.ignore_index)
                self._save("overlay", f"{name}.png", Image.fromarray(drawn).save)
            if "palette" in self.kinds:
                self._save("palette", f"{name}.png", Image.fromarray(coloured(mask, _palette(pl_module))).save)
            if "labels" in self.kinds:
                values = data.to_label_values(mask) if isinstance(data, SegmentationDataModule) else mask
                self._save("labels", f"{name}.png", Image.fromarray(values).save)
            if self.record is not None:
                self.record.add(name, "done", trainer.global_rank)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where the predictions are."""
        if trainer.is_global_zero:
            console = Console(markup=False, emoji=False)
            console.print(f"predictions: {self.place}", soft_wrap=True, highlight=False)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Say what was left out, here where every process comes, also one without images.

        Raises:
            ValueError: If there were images that could not be read.
        """
        broken = _of_all_processes(self.broken) if stage == "predict" else []
        if broken:
            shown = "\n".join(broken[:MOST_BROKEN])
            raise ValueError(f"expected images that can be read, got {len(broken)} that were left out:\n{shown}")

    def _save(self, kind: str, name: str, save: Callable[[Path], None]) -> None:
        path = self.place / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        save(partial)
        partial.replace(path)


def _save_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, probabilities=array.astype(np.float16))


def _palette(module: SegmentationModule) -> Sequence[Colour]:
    return module.palette or default_palette(module.num_classes)


def _charts(module: SegmentationModule, scores: Scores) -> dict[str, Image.Image]:
    """The confusion matrix and, where it was due, the trimap curve."""
    charts = {"confusion": confusion_picture(scores.confusion.numpy(), module.class_names)}
    if scores.trimap is not None:
        trimap = {width: score.item() for width, score in scores.trimap.items()}
        charts["trimap"] = trimap_picture(trimap, scores.means["mIoU"].item())
    return charts


def _table(module: SegmentationModule, scores: Scores, stage: str) -> Table:
    """The classes' scores, and the means below."""
    columns, *rows = _class_rows(module, scores)
    table = Table(title=f"the last {'test' if stage == 'test' else 'validation'}", min_width=30)
    for column in columns[:-1]:
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, *values in rows:
        table.add_row(name, *("absent" if np.isnan(value) else f"{value:.4f}" for value in values[:-1]))
    table.add_section()
    for name, mean in scores.means.items():
        table.add_row(name, f"{mean.item():.4f}")
    if scores.boundary_iou is not None:
        table.caption = f"boundary IoU: {module.boundary_iou.dilation_ratio:g} of the diagonal{_last_width(module)}"
    return table


def _last_width(module: SegmentationModule) -> str:
    """The width of the boundary IoU's band in the last image; nothing before the first."""
    size = module.boundary_iou.last_size
    return "" if size is None else f", {module.boundary_iou.width(*size)} pixels at {size[0]}x{size[1]}"


def _class_rows(module: SegmentationModule, scores: Scores) -> list[list[Any]]:
    """Columns, and a row for each class: name, IoU, boundary IoU where it was due, labelled pixels."""
    parts = {"IoU": scores.iou.tolist()}
    if scores.boundary_iou is not None:
        parts["boundary IoU"] = scores.boundary_iou.tolist()
    pixels = scores.confusion.sum(dim=1).tolist()
    return [
        ["class", *parts, "pixels"],
        *([name, *values] for name, *values in zip(module.class_names, *parts.values(), pixels, strict=True)),
    ]


def write_tables(
    folder: Path, stage: str, module: SegmentationModule, scores: Scores, images: Sequence[ImageScores]
) -> list[Path]:
    """Write the means, the classes and the images, the worst boundary IoU first, as CSV; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    by_rank = sorted(images, key=lambda each: (np.isnan(each.boundary_iou), each.boundary_iou))
    ratio = module.boundary_iou.dilation_ratio
    tables: dict[str, list[list[Any]]] = {
        "means": [
            ["score", "value"],
            *([name, mean.item()] for name, mean in scores.means.items()),
            ["dilation_ratio", ratio],
        ],
        "classes": _class_rows(module, scores),
        "images": [[each.name for each in fields(ImageScores)], *(list(astuple(each)) for each in by_rank)],
    }
    paths = []
    for name, rows in tables.items():
        paths.append(folder / f"{stage}-{name}.csv")
        with paths[-1].open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    return paths


def _of_all_processes(entries: list[Entry]) -> list[Entry]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return entries
    shares: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, entries)
    return [each for share in shares for each in share]


def _example(
    name: str, image: Tensor, label: Tensor, prediction: Tensor, boundary_iou: float, ignore_index: int
) -> Example:
    label = label.where(label != ignore_index, _void(ignore_index))
    mask, classes = (maps.cpu().numpy().astype(np.uint8) for maps in (label, prediction))
    picture = image.permute(1, 2, 0).cpu().numpy()
    picture = cv2.resize(np.ascontiguousarray(picture), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return Example(name, picture, mask, classes, boundary_iou)


def _void(ignore_index: int) -> int:
    """What ignored pixels are in a picture's map of bytes."""
    return ignore_index if 0 <= ignore_index <= 255 else 255


def _overlays(example: Example, labels: dict[int, str]) -> dict[str, dict[str, Any]]:
    maps = {"prediction": example.prediction, "ground_truth": example.label}
    return {name: {"mask_data": _shrunk(each), "class_labels": labels} for name, each in maps.items()}


def _shrunk(array: np.ndarray) -> np.ndarray:
    """An image or a map of classes with no side over ``LARGEST_SIDE``."""
    factor = LARGEST_SIDE / max(array.shape[:2])
    if factor >= 1:
        return array
    interpolation = cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST_EXACT
    return cv2.resize(array, None, fx=factor, fy=factor, interpolation=interpolation)
