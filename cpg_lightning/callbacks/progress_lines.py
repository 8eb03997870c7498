"""Prints the progress of a run as lines, for log files, which cannot show a progress bar."""

import math
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from cpg_lightning.callbacks.stopwatch import Stopwatch


class ProgressLines(ProgressBar):
    """Prints a line at each validation and every few minutes, instead of Lightning's progress bar.

    A line has the epoch, the step, the scores, the images per second of the training steps and the remaining time, e.g.
    ``Epoch 3/29, step 88/660: train/loss 0.5123, val/mIoU 0.4231, 85.2 images/s, 1:20:05 left``. During a long evaluation,
    a line has the number of the batch. Between two lines, nothing is read from the device.

    The command uses this callback if its output is not a terminal. Epochs count from 0, as in Lightning's progress bar, in
    file names and in ``metrics.csv``.

    Args:
        minutes: Minutes between two lines.
        scores: Names of values to print, if they are logged.

    Raises:
        ValueError: If ``minutes`` is negative.

    Example:
        >>> trainer = L.Trainer(callbacks=[ProgressLines(minutes=5)])  # doctest: +SKIP
    """

    # Modules that log with prog_bar read this. There is no bar, so Lightning needs no values after every step.
    is_enabled = False

    only_watches = True

    def __init__(self, minutes: float = 2.0, scores: Sequence[str] = ("train/loss", "val/loss", "val/mIoU")) -> None:
        super().__init__()
        if not minutes >= 0:
            raise ValueError(f"expected minutes to be 0 or more, got {minutes}")
        self.minutes = minutes
        self.scores = tuple(scores)
        self.printing = True
        self.last_line = time.monotonic()
        self.clock = Stopwatch()  # time of the training steps
        self.images = 0
        self.began, self.first_step = time.monotonic(), 0  # time and step at the start of this process

    def enable(self) -> None:
        """Print lines."""
        self.printing = True

    def disable(self) -> None:
        """Print no lines. Lightning calls this in all processes except the first."""
        self.printing = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print without buffering."""
        print(*args, **{"flush": True, **kwargs})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the counts."""
        self.began = self.last_line = time.monotonic()
        self.first_step, self.images, self.clock = trainer.global_step, 0, Stopwatch()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of the training steps."""
        self.clock.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if it is time."""
        self.images += len(batch["image"]) * trainer.world_size
        if self._is_time():
            self._tell(self._line(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of the training steps."""
        self.clock.stop()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of the training steps."""
        self.clock.stop()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a line if it is time."""
        if not trainer.sanity_checking:
            self._tell_batch(self.validation_description, batch_idx, trainer.num_val_batches)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a line if it is time."""
        self._tell_batch(self.test_description, batch_idx, trainer.num_test_batches)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a line if it is time."""
        self._tell_batch(self.predict_description, batch_idx, trainer.num_predict_batches)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the scores."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self.printing:
            self._tell(self._line(trainer))

    def _is_time(self) -> bool:
        return self.printing and time.monotonic() - self.last_line >= 60 * self.minutes

    def _tell_batch(self, what: str, batch_idx: int, batches: Sequence[int | float]) -> None:
        if self._is_time():
            self._tell(f"{what}: batch {batch_idx + 1}/{sum(batches)}")

    def _tell(self, line: str) -> None:
        self.print(line)
        self.last_line = time.monotonic()

    def _line(self, trainer: L.Trainer) -> str:
        last_epoch = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs - 1}"
        total = trainer.estimated_stepping_batches
        steps = f"/{total:g}" if math.isfinite(total) else ""
        parts = [
            f"{name} {trainer.callback_metrics[name].item():.4f}"
            for name in self.scores
            if name in trainer.callback_metrics
        ]
        if self.clock.seconds:
            parts.append(f"{self.images / self.clock.seconds:.1f} images/s")
        done = trainer.global_step - self.first_step
        if steps and done:
            seconds = (time.monotonic() - self.began) / done * (total - trainer.global_step)
            parts.append(f"{timedelta(seconds=round(seconds))} left")
        return f"Epoch {trainer.current_epoch}{last_epoch}, step {trainer.global_step}{steps}: {', '.join(parts)}"
