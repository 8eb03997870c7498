"""What a run shows: tables and pictures, in the terminal, in files and in Weights & Biases."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

from cpg_lightning.module import SegmentationModule
from cpg_lightning.pictures import Colour, coloured, comparison, default_palette

LARGEST_SIDE = 1024  # of a picture sent to Weights & Biases, in pixels


class ValidationReport(Callback):
    """The same few validation images through the run, and each class's IoU.

    To Weights & Biases: the images with their label and prediction as overlays, ``val/examples``, and the table
    ``val/IoU_table``. At the end of ``fit`` and ``validate``: the table and the best checkpoint in the terminal, and a
    picture, image | label | prediction | boundary errors.

    Args:
        num_images: How many images: the first of each of so many batches, evenly spaced over the validation set (the
            share of the first process).
        every_n_validations: How often they go to Weights & Biases; the last validation's always do.
        folder: Where the picture is written; ``pictures`` in the trainer's ``default_root_dir`` by default.

    Raises:
        ValueError: If a number is less than 1.
    """

    def __init__(self, num_images: int = 4, every_n_validations: int = 5, folder: str | None = None) -> None:
        for name, number in (("num_images", num_images), ("every_n_validations", every_n_validations)):
            if number < 1:
                raise ValueError(f"expected {name} to be 1 or more, got {number}")
        self.num_images = num_images
        self.every_n_validations = every_n_validations
        self.folder = folder
        self.validations = 0
        self.chosen: set[int] = set()
        self.examples: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
        self.iou: Tensor | None = None
        self.logged = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the images."""
        batches = int(sum(trainer.num_val_batches))
        self.chosen = set(np.linspace(0, max(0, batches - 1), self.num_images).round().astype(int).tolist())
        self.examples = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first image of a chosen batch."""
        if trainer.is_global_zero and not trainer.sanity_checking and batch_idx in self.chosen:
            label, prediction = (
                maps[0].cpu().numpy().astype(np.uint8) for maps in (batch["mask"], outputs["prediction"])
            )
            image = batch["image"][0].permute(1, 2, 0).cpu().numpy()
            image = cv2.resize(image, label.shape[::-1], interpolation=cv2.INTER_LINEAR)
            self.examples.append((batch["name"][0], image, label, prediction))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: SegmentationModule) -> None:  # type: ignore[override]
        """Keep the IoU, before the module starts counting anew."""
        if not trainer.sanity_checking:
            self.iou = pl_module.class_iou.compute()  # on every process: it gathers their counts

    def on_validation_end(self, trainer: L.Trainer, pl_module: SegmentationModule) -> None:  # type: ignore[override]
        """Log what is due."""
        if trainer.sanity_checking:
            return
        self.validations += 1
        self.logged = False
        if trainer.state.fn == "validate":
            self._finish(trainer, pl_module)
        elif self.validations % self.every_n_validations == 0:
            self._log(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: SegmentationModule) -> None:  # type: ignore[override]
        """Log, draw and print the last validation."""
        self._finish(trainer, pl_module)

    def state_dict(self) -> dict[str, int]:
        """The number of validations, so that a resumed run logs as often."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """See :meth:`state_dict`."""
        self.validations = state_dict["validations"]

    def _finish(self, trainer: L.Trainer, module: SegmentationModule) -> None:
        if self.iou is None or not trainer.is_global_zero:
            return
        if not self.logged:
            self._log(trainer, module)
        console = Console()
        console.print(_iou_table(module.class_names, self.iou))
        checkpoint = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if checkpoint and trainer.state.fn == "fit":
            console.print(f"best checkpoint: {checkpoint}", soft_wrap=True, highlight=False)
        if self.examples:
            folder = Path(self.folder or Path(trainer.default_root_dir, "pictures"))
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "validation.png"
            rows = [(image, label, prediction) for _, image, label, prediction in self.examples]
            comparison(rows, _palette(module), module.class_names, module.ignore_index).save(path)
            console.print(f"picture: {path}", soft_wrap=True, highlight=False)

    def _log(self, trainer: L.Trainer, module: SegmentationModule) -> None:
        self.logged = True
        labels = {**dict(enumerate(module.class_names)), module.ignore_index: "ignored"}
        for logger in trainer.loggers:
            if not isinstance(logger, WandbLogger) or self.iou is None:
                continue
            if self.examples:
                shrunk = [(name, *map(_shrunk, arrays)) for name, *arrays in self.examples]
                logger.log_image(
                    "val/examples",
                    [image for _, image, _, _ in shrunk],
                    step=trainer.global_step,
                    caption=[name for name, *_ in shrunk],
                    masks=[
                        {
                            "prediction": {"mask_data": prediction, "class_labels": labels},
                            "ground_truth": {"mask_data": label, "class_labels": labels},
                        }
                        for _, _, label, prediction in shrunk
                    ],
                )
            rows = [
                [name, None if np.isnan(iou) else iou]
                for name, iou in zip(module.class_names, self.iou.tolist(), strict=True)
            ]
            logger.log_table("val/IoU_table", columns=["class", "IoU"], data=rows, step=trainer.global_step)


class PredictionWriter(BasePredictionWriter):
    """Writes each prediction of ``predict`` as a PNG in the classes' colours, under its image's name.

    Args:
        folder: Where; ``predictions`` in the trainer's ``default_root_dir`` by default.
    """

    def __init__(self, folder: str | None = None) -> None:
        super().__init__(write_interval="batch")
        self.folder = folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Agree on the folder: each process may have a ``default_root_dir`` of its own."""
        folder = self.folder or str(Path(trainer.default_root_dir, "predictions"))
        self.folder = trainer.strategy.broadcast(folder)

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: SegmentationModule,  # type: ignore[override]
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the predictions of a batch."""
        folder = Path(self.folder or "")
        folder.mkdir(parents=True, exist_ok=True)
        for name, classes in zip(batch["name"], prediction.cpu().numpy(), strict=True):
            partial = folder / f".{name}.png"
            Image.fromarray(coloured(classes, _palette(pl_module))).save(partial)
            partial.replace(folder / f"{name}.png")  # a file is there whole or not at all

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where the predictions are."""
        if trainer.is_global_zero:
            Console().print(f"predictions: {self.folder}", soft_wrap=True, highlight=False)


def _palette(module: SegmentationModule) -> Sequence[Colour]:
    return module.palette or default_palette(module.num_classes)


def _iou_table(class_names: Sequence[str], iou: Tensor) -> Table:
    table = Table(title="IoU of the last validation", show_footer=True, min_width=30)
    table.add_column("class", footer="mean")
    table.add_column("IoU", justify="right", footer=f"{torch.nanmean(iou):.4f}")
    for name, value in zip(class_names, iou.tolist(), strict=True):
        table.add_row(name, "absent" if np.isnan(value) else f"{value:.4f}")
    return table


def _shrunk(array: np.ndarray) -> np.ndarray:
    """An image or a map of classes with no side over ``LARGEST_SIDE``."""
    factor = LARGEST_SIDE / max(array.shape[:2])
    if factor >= 1:
        return array
    interpolation = cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST_EXACT
    return cv2.resize(array, None, fx=factor, fy=factor, interpolation=interpolation)
