"""Measures throughput, data loading time and memory of a training, without waiting for the device."""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from cpg_lightning.callbacks.stopwatch import Stopwatch

LOADING = ".train_dataloader_next"  # suffix of Lightning's name for the loading of a training batch
GIB = 2**30


class Costs(Callback):
    """Measures time and memory of a training, and logs them in the steps that Lightning logs (``log_every_n_steps``).

    Logged, for any logger and for :class:`~cpg_lightning.callbacks.MetricsFile`:

    - ``costs/images_per_second``: images of all processes, divided by the time of the training steps since the last value.
      This time includes the loading of batches. It excludes validation, writing of checkpoints, the start of an epoch and
      the first step.
    - ``costs/data_seconds_per_step``: time in seconds that a step waits for its batch. Not logged if the user has set a
      profiler of the Trainer.
    - ``costs/epoch_seconds``: duration of an epoch, including validation. Not logged for an epoch that was resumed.
    - ``costs/peak_memory_GiB``: peak memory that torch allocated on a CUDA device in this training.
    - ``costs/parameters``: number of the module's parameters.
    - ``train/gradient_norm``: 2-norm of all gradients before clipping.

    Nothing waits for the device. Times are taken at the same place in each step. At this place, the device is behind the
    host by about the same number of operators. Seconds, memory and gradients are those of each process.

    Attributes:
        summary: Costs of the training up to the last logged step, available after its end: ``images_per_second``,
            ``data_seconds_per_step``, ``training_seconds`` (only steps), ``peak_memory_GiB`` and ``parameters``.

    Example:
        >>> trainer = L.Trainer(callbacks=[Costs()])  # doctest: +SKIP
    """

    only_watches = True

    def __init__(self) -> None:
        self.clock = Stopwatch()  # time of the training steps since the last value
        self.loading = LoadingTimer(self.clock)
        self.images = 0  # images since the last value
        self.last_step: int | None = None  # step of the last value; None before the first step
        self.epoch_began: float | None = None
        self.totals = {"images": 0.0, "seconds": 0.0, "data_seconds": 0.0, "steps": 0.0}
        self.summary: dict[str, float] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set a profiler, because a callback has no hook for the loading of a batch."""
        if stage == "fit" and isinstance(trainer.profiler, PassThroughProfiler):  # type: ignore[attr-defined]
            trainer.profiler = self.loading  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Return the totals, which a continued training adds to."""
        return dict(self.totals)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the totals of :meth:`state_dict`."""
        self.totals = {name: float(state_dict[name]) for name in self.totals}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the measurement."""
        self.epoch_began = self.last_step = None
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Store the start time of the epoch."""
        self.epoch_began = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of the training steps."""
        self.clock.start()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Log the costs, if Lightning logs this step. Here the gradients are accumulated and not yet clipped."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.last_step is None:
            self._restart(trainer)  # the first step is not measured, because it selects kernels and compiles
        if not every or (trainer.global_step + 1) % every:
            return
        values = {"costs/parameters": _number(_parameters(pl_module)), **self._measured(trainer)}
        if pl_module.device.type == "cuda":
            values["costs/peak_memory_GiB"] = _measurement(_peak_memory(pl_module))
        gradients = [each.grad for each in pl_module.parameters() if each.grad is not None]
        if gradients:
            values["train/gradient_norm"] = get_total_norm(gradients)
        pl_module.log_dict(values, batch_size=1)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images."""
        self.images += len(batch["image"])

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of the training steps until the next batch is loaded."""
        self.clock.stop()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stop the clock of the training steps until the next batch is loaded."""
        self.clock.stop()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the duration of the epoch, the maximum over all processes."""
        self.clock.stop()
        if self.epoch_began is not None:
            # A tensor on the device, because processes exchange tensors on their devices.
            seconds = torch.full((), time.perf_counter() - self.epoch_began, device=pl_module.device)
            pl_module.log("costs/epoch_seconds", seconds, batch_size=1, sync_dist=True, reduce_fx="max")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute the summary of the training, also if a continued training was complete."""
        self.summary = {"parameters": float(_parameters(pl_module)), "training_seconds": self.totals["seconds"]}
        if self.totals["seconds"]:
            self.summary["images_per_second"] = self.totals["images"] / self.totals["seconds"]
        if self.totals["steps"] and trainer.profiler is self.loading:  # type: ignore[attr-defined]
            self.summary["data_seconds_per_step"] = self.totals["data_seconds"] / self.totals["steps"]
        if pl_module.device.type == "cuda":
            self.summary["peak_memory_GiB"] = _peak_memory(pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the Trainer's profiler."""
        if trainer.profiler is self.loading:  # type: ignore[attr-defined]
            trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]

    def _restart(self, trainer: L.Trainer) -> None:
        self.images, self.last_step = 0, trainer.global_step
        self.clock.restart()
        self.loading.seconds = 0.0

    def _measured(self, trainer: L.Trainer) -> dict[str, Tensor]:
        """Return the costs of the steps since the last value; empty without such steps."""
        steps, seconds, data_seconds = (
            trainer.global_step - (self.last_step or 0),
            self.clock.seconds,
            self.loading.seconds,
        )
        if not steps:
            return {}
        images = self.images * trainer.world_size
        added = {"images": images, "seconds": seconds, "data_seconds": data_seconds, "steps": steps}
        self.totals = {name: total + added[name] for name, total in self.totals.items()}
        self._restart(trainer)
        values = {"costs/images_per_second": _measurement(images / seconds)}
        if trainer.profiler is self.loading:  # type: ignore[attr-defined]
            values["costs/data_seconds_per_step"] = _measurement(data_seconds / steps)
        return values


class LoadingTimer(Profiler):
    """Sums the time in which the Trainer waits for training batches. It starts the clock of the training steps before."""

    def __init__(self, clock: Stopwatch) -> None:
        super().__init__()
        self.clock = clock
        self.seconds = 0.0
        self._began = 0.0

    def start(self, action_name: str) -> None:
        """Called before an action; handles the loading of a batch."""
        if action_name.endswith(LOADING):
            self.clock.start()
            self._began = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Called after an action; handles the loading of a batch."""
        if action_name.endswith(LOADING):
            self.seconds += time.perf_counter() - self._began


def _number(value: float) -> Tensor:
    """Return a number as a tensor to log: on the host, which needs no copy, in float64, exact for parameter counts."""
    return torch.tensor(value, dtype=torch.float64)


def _measurement(value: float) -> Tensor:
    """Return a measured number as a tensor to log, rounded to 5 significant digits."""
    return _number(float(f"{value:.5g}"))


def _parameters(module: L.LightningModule) -> int:
    return sum(each.numel() for each in module.parameters())


def _peak_memory(module: L.LightningModule) -> float:
    return torch.cuda.max_memory_allocated(module.device) / GIB
