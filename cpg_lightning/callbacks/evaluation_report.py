"""Reports an evaluation as tables and pictures: in the terminal, in files and in Weights & Biases."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from rich.console import Console

from cpg_lightning.callbacks.columns import filter_columns
from cpg_lightning.callbacks.examples import Example, example_of, logged_masks, shrink
from cpg_lightning.callbacks.processes import gather_from_processes
from cpg_lightning.callbacks.tables import class_rows, score_table, write_tables
from cpg_lightning.data.class_info import IGNORED
from cpg_lightning.metrics.evaluation import ImageScores, Scores, image_scores
from cpg_lightning.module import SegmentationModule
from cpg_lightning.pictures import comparison_sheet, confusion_picture, trimap_picture


class EvaluationReport(Callback):
    """Reports an evaluation: tables of its scores, and pictures of a few images.

    To any logger, at the start of a training: columns for filtering runs (dataset, network, criterion and its numbers,
    optimizer, learning rate, images per step, precision, seed, devices).

    To Weights & Biases, at every n-th validation and the last validation of a training: example images, the same ones in
    the whole run (``val/examples``), and the images with the worst boundary IoU (``val/worst``), with name, scores, and
    label and prediction as overlays; a table of the IoU of each class (``val/IoU_table``); the confusion matrix; the trimap
    curve. To TensorBoard: the same without the table, with label and prediction beside the image.

    To the terminal, at the end of ``fit``, ``validate`` and ``test``: a table of the scores.

    To the run's folder, at the same time: in ``pictures``, the same images as image | label | prediction | boundary errors,
    the confusion matrix and the trimap curve; in ``tables``, the means, the classes, and all images sorted by boundary IoU,
    the worst first, as CSV, and the counts of each image.

    The images are those of the first process; the tables include all processes.

    Args:
        num_images: Number of example images. They are the first images of evenly spaced batches.
        num_worst: Number of images with the worst boundary IoU.
        every_n_validations: Interval of the reports to these loggers in a training, in validations.
        folder: Folder of ``pictures`` and ``tables``; the trainer's ``default_root_dir`` by default.

    Raises:
        ValueError: If ``num_worst`` is less than 0, or another number is less than 1.
    """

    only_watches = True

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
        self.chosen: set[int] = set()
        self.examples: list[Example] = []
        self.worst: list[Example] = []
        self.images: list[ImageScores] = []
        self.charts: dict[str, Image.Image] = {}
        self.logged = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Turn off Lightning's own table of the scores."""
        trainer.validate_loop.verbose = trainer.test_loop.verbose = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the columns for filtering, unless the command has logged them."""
        if not any(isinstance(each, SaveConfigCallback) for each in trainer.callbacks):  # type: ignore[attr-defined]
            for logger in trainer.loggers:
                logger.log_hyperparams(filter_columns(trainer, pl_module))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the example images."""
        self._start(int(sum(trainer.num_val_batches)))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the example images."""
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
        """Collect images and scores."""
        if not trainer.sanity_checking:
            self._look(trainer, pl_module, outputs, batch, batch_idx)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]  # the module is a SegmentationModule

    def on_validation_end(self, trainer: L.Trainer, pl_module: SegmentationModule) -> None:  # type: ignore[override]
        """Report a validation if it is due."""
        if trainer.sanity_checking:
            return
        self.logged = False
        if trainer.state.fn == "validate":
            self._finish(trainer, pl_module, "val")
        elif pl_module.metrics.validations % self.every_n_validations == 0:
            self._log(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: SegmentationModule) -> None:  # type: ignore[override]
        """Log, draw and print the scores of the test."""
        self.logged = False
        self._finish(trainer, pl_module, "test")

    def on_fit_end(self, trainer: L.Trainer, pl_module: SegmentationModule) -> None:  # type: ignore[override]
        """Log, draw and print the scores of the last validation."""
        self._finish(trainer, pl_module, "val")

    def _start(self, batches: int) -> None:
        self.chosen = set(np.linspace(0, max(0, batches - 1), self.num_images).round().astype(int).tolist())
        self.examples, self.worst, self.images, self.charts = [], [], [], {}

    def _look(
        self,
        trainer: L.Trainer,
        module: SegmentationModule,
        outputs: dict[str, Any],
        batch: dict[str, Any],
        batch_idx: int,
    ) -> None:
        """Collect the scores of all images, the first image of a chosen batch, and the worst images."""
        for index, name in enumerate(batch["name"]):
            scores = image_scores(name, outputs["counts"][index]) if outputs["counts"] else None
            if scores:
                self.images.append(scores)
            chosen = batch_idx in self.chosen and index == 0
            room = len(self.worst) < self.num_worst
            worst = scores is not None and (room or any(scores.boundary_iou < each.rank for each in self.worst))
            if not trainer.is_global_zero or not (chosen or worst):
                continue
            label, prediction = batch["mask"][index], outputs["prediction"][index]
            example = example_of(name, batch["image"][index], label, prediction, scores)
            if chosen:
                self.examples.append(example)
            if worst:
                self.worst = sorted([*self.worst, example], key=lambda each: each.rank)[: self.num_worst]

    def _finish(self, trainer: L.Trainer, module: SegmentationModule, stage: str) -> None:
        if module.scores is None:
            return
        images = gather_from_processes(self.images)
        if not trainer.is_global_zero:
            return
        if not self.logged:
            self._log(trainer, module, stage)
        console = Console(markup=False, emoji=False)  # names and paths may contain brackets
        console.print(score_table(module, module.scores, stage))
        checkpoint = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if checkpoint and trainer.state.fn == "fit":
            console.print(f"best checkpoint: {checkpoint}", soft_wrap=True, highlight=False)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return  # fast_dev_run writes no files
        folder = Path(self.folder or trainer.default_root_dir)
        for name, picture in {**self._sheets(module), **self._charts(module, module.scores)}.items():
            path = folder / "pictures" / f"{stage}-{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            console.print(f"picture: {path}", soft_wrap=True, highlight=False)
        for path in write_tables(folder / "tables", stage, module, module.scores, images):
            console.print(f"table: {path}", soft_wrap=True, highlight=False)

    def _sheets(self, module: SegmentationModule) -> dict[str, Image.Image]:
        """Draw the collected images as sheets, by name."""
        sheets = {}
        for name, examples in (("examples", self.examples), ("worst", self.worst)):
            if examples:
                rows = [(each.image, each.label, each.prediction) for each in examples]
                sheets[name] = comparison_sheet(rows, module.classes, titles=[each.title for each in examples])
        return sheets

    def _charts(self, module: SegmentationModule, scores: Scores) -> dict[str, Image.Image]:
        """Draw the confusion matrix and, if it was computed, the trimap curve, once for loggers and files."""
        if not self.charts:
            self.charts["confusion"] = confusion_picture(scores.confusion.numpy(), module.classes.names)
            if scores.trimap is not None:
                trimap = {width: score.item() for width, score in scores.trimap.items()}
                self.charts["trimap"] = trimap_picture(trimap, scores.means["mIoU"].item())
        return self.charts

    def _log(self, trainer: L.Trainer, module: SegmentationModule, stage: str) -> None:
        self.logged = True
        wandb = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        tensorboard = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if module.scores is None or not (wandb or tensorboard):
            return
        labels = {**dict(enumerate(module.classes.names)), IGNORED: "ignored"}
        charts = self._charts(module, module.scores)
        pictures = {**self._sheets(module), **charts} if tensorboard else {}
        for board in tensorboard:
            for name, picture in pictures.items():
                board.experiment.add_image(
                    f"{stage}/{name}", np.asarray(picture), trainer.global_step, dataformats="HWC"
                )
        for logger in wandb:
            for name, examples in (("examples", self.examples), ("worst", self.worst)):
                if examples:
                    logger.log_image(
                        f"{stage}/{name}",
                        [shrink(each.image) for each in examples],
                        step=trainer.global_step,
                        caption=[each.title for each in examples],
                        masks=[logged_masks(each, labels) for each in examples],
                    )
            for name, chart in charts.items():
                logger.log_image(f"{stage}/{name}", [chart], step=trainer.global_step)
            columns, *rows = class_rows(module, module.scores)
            data = [[None if isinstance(each, float) and np.isnan(each) else each for each in row] for row in rows]
            logger.log_table(f"{stage}/IoU_table", columns=columns, data=data, step=trainer.global_step)
