"""Tells how far a run is in lines, for log files, where a progress bar cannot be drawn."""

import math
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from cpg_lightning.callbacks.stopwatch import Stopwatch


class ProgressLines(ProgressBar):
    """Prints a line at each validation and one every few minutes, in place of Lightning's progress bar.

    A line has the epoch, the step, the scores, the images a second of the training steps and the time that is left, e.g.
    ``Epoch 3/29, step 88/660: train/loss 0.5123, val/mIoU 0.4231, 85.2 images/s, 1:20:05 left``. An evaluation that takes
    longer tells its batch every few minutes. Between lines, nothing is read from the device.

    The command uses it where its output is no terminal. Epochs count from 0, as in Lightning's progress bar, in file names
    and in ``metrics.csv``.

    Args:
        minutes: Time between two lines.
        scores: Names of logged values to print, if they are logged.

    Raises:
        ValueError: If ``minutes`` is negative.

    Example:
        >>> trainer = L.Trainer(callbacks=[ProgressLines(minutes=5)])  # doctest: +SKIP
    """

    # For who logs: there is no bar whose values Lightning reads after every step.
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
        self.clock = Stopwatch()  # runs in training steps
        self.images = 0
        self.began, self.first_step = time.monotonic(), 0  # of this start of the training

    def enable(self) -> None:
        """Print lines."""
        self.printing = True

    def disable(self) -> None:
        """Print none: in all processes but the first."""
        self.printing = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print at once, not when a buffer is full."""
        print(*args, **{"flush": True, **kwargs})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from here."""
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
