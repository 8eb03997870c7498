"""Writes the predictions of ``predict`` to files."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image
from rich.console import Console
from torch import Tensor

from cpg_lightning.callbacks.processes import gather_from_processes
from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.data.predicted import PredictionRecord
from cpg_lightning.module import SegmentationModule
from cpg_lightning.pictures import colour_classes, overlay

KINDS = ("palette", "labels", "overlay")  # kinds of files
MOST_BROKEN = 20  # largest number of unreadable images in a message


class PredictionWriter(BasePredictionWriter):
    """Writes each prediction of ``predict`` under the name and at the size of its image.

    Each kind of file has its own folder:

    - ``palette``: PNG in the colours of the classes,
    - ``labels``: PNG with the values of the dataset's label files, as benchmark servers expect them,
    - ``overlay``: PNG of the image with the classes and their boundaries drawn over it,
    - ``probabilities``, if the module predicts them: NumPy archive with float16 (C, H, W).

    Each file is written atomically. Images that cannot be read are skipped, and raise an error at the end.

    Args:
        folder: The output folder; ``predictions`` in the trainer's ``default_root_dir`` by default.
        palette: Whether to write the colours of the classes.
        labels: Whether to write label values.
        overlay: Whether to write overlays.
    """

    only_watches = True

    def __init__(
        self, folder: str | None = None, palette: bool = True, labels: bool = True, overlay: bool = True
    ) -> None:
        super().__init__(write_interval="batch")
        self.folder = folder
        self.kinds = [kind for kind, wanted in zip(KINDS, (palette, labels, overlay), strict=True) if wanted]
        self.record: PredictionRecord | None = None  # record of `cpg predict --output`
        self.broken: list[str] = []
        self.place = Path()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the list of unreadable images."""
        self.broken = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Send the folder of the first process to all processes, because ``default_root_dir`` may differ."""
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
                drawn = overlay(image, mask, pl_module.classes.palette)
                self._save("overlay", f"{name}.png", Image.fromarray(drawn).save)
            if "palette" in self.kinds:
                self._save(
                    "palette", f"{name}.png", Image.fromarray(colour_classes(mask, pl_module.classes.palette)).save
                )
            if "labels" in self.kinds:
                values = data.to_label_values(mask) if isinstance(data, SegmentationDataModule) else mask
                self._save("labels", f"{name}.png", Image.fromarray(values).save)
            if self.record is not None:
                self.record.add(name, "done", trainer.global_rank)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the folder of the predictions."""
        if trainer.is_global_zero:
            console = Console(markup=False, emoji=False)
            console.print(f"predictions: {self.place}", soft_wrap=True, highlight=False)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Report the skipped images. Every process calls this hook, even a process without images.

        Raises:
            ValueError: If images could not be read.
        """
        broken = gather_from_processes(self.broken) if stage == "predict" else []
        if broken:
            shown = "\n".join(broken[:MOST_BROKEN])
            raise ValueError(f"expected images that can be read, got {len(broken)} that were skipped:\n{shown}")

    def _save(self, kind: str, name: str, save: Callable[[Path], None]) -> None:
        path = self.place / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        save(partial)
        partial.replace(path)


def _save_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, probabilities=array.astype(np.float16))
