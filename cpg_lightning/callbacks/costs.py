"""Measures what a training costs, without waiting for the device: images a second, loading of data, memory."""

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

LOADING = ".train_dataloader_next"  # what Lightning calls the loading of a training batch, without the name of its loop
GIB = 2**30


class Costs(Callback):
    """Measures what a training costs, and logs it at the steps that Lightning logs (every ``log_every_n_steps``).

    Logged, for any logger and for :class:`~cpg_lightning.callbacks.MetricsFile`:

    - ``costs/images_per_second``: images of all processes by the time of the training steps since the last value. Loading
      of batches is in that time; validation, writing of checkpoints, the start of an epoch and the first step are not.
    - ``costs/data_seconds_per_step``: how long a step waits until its batch is loaded. It is left out where the Trainer has a
      profiler of its own.
    - ``costs/epoch_seconds``: duration of an epoch with all that belongs to it, except for one that was resumed in the middle.
    - ``costs/peak_memory_GiB``: the most that torch had allocated on a CUDA device in this training.
    - ``costs/parameters``: number of the module's parameters.
    - ``train/gradient_norm``: 2-norm of all gradients before they are clipped.

    Nothing waits for the device: times are taken at the same place in each step, where the device is behind the host by
    about the same number of operators. Seconds, memory and gradients are those of each process.

    Attributes:
        summary: Of the training up to the last step that was logged, after its end: ``images_per_second``, ``data_seconds_per_step``,
            ``training_seconds`` (of the steps alone), ``peak_memory_GiB`` and ``parameters``.

    Example:
        >>> trainer = L.Trainer(callbacks=[Costs()])  # doctest: +SKIP
    """

    only_watches = True

    def __init__(self) -> None:
        self.clock = Stopwatch()  # runs in training steps, since the last value
        self.loading = LoadingTimer(self.clock)
        self.images = 0  # since the last value
        self.last_step: int | None = None  # of the last value; None before the first step
        self.epoch_began: float | None = None
        self.totals = {"images": 0.0, "seconds": 0.0, "data_seconds": 0.0, "steps": 0.0}
        self.summary: dict[str, float] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the Trainer tell when it loads a batch: a callback has no hook for it, a profiler has."""
        if stage == "fit" and isinstance(trainer.profiler, PassThroughProfiler):  # type: ignore[attr-defined]
            trainer.profiler = self.loading  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """The totals, so that a training that continues adds to them."""
        return dict(self.totals)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""
        self.totals = {name: float(state_dict[name]) for name in self.totals}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure from here."""
        self.epoch_began = self.last_step = None
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the epoch from here."""
        self.epoch_began = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of the training steps."""
        self.clock.start()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Log, if Lightning logs this step: here the gradients are whole and not clipped yet."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.last_step is None:
            self._restart(trainer)  # the first step chooses kernels and compiles: it is not measured
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
        """Log how long the epoch took: the longest of all processes."""
        self.clock.stop()
        if self.epoch_began is not None:
            # A tensor that the device fills: processes exchange what is on their devices.
            seconds = torch.full((), time.perf_counter() - self.epoch_began, device=pl_module.device)
            pl_module.log("costs/epoch_seconds", seconds, batch_size=1, sync_dist=True, reduce_fx="max")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sum up the training."""
        self.summary = {"parameters": float(_parameters(pl_module)), "training_seconds": self.totals["seconds"]}
        if self.totals["seconds"]:
            self.summary["images_per_second"] = self.totals["images"] / self.totals["seconds"]
        if self.totals["steps"] and trainer.profiler is self.loading:  # type: ignore[attr-defined]
            self.summary["data_seconds_per_step"] = self.totals["data_seconds"] / self.totals["steps"]
        if pl_module.device.type == "cuda":
            self.summary["peak_memory_GiB"] = _peak_memory(pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the Trainer as it was."""
        if trainer.profiler is self.loading:  # type: ignore[attr-defined]
            trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]

    def _restart(self, trainer: L.Trainer) -> None:
        self.images, self.last_step = 0, trainer.global_step
        self.clock.restart()
        self.loading.seconds = 0.0

    def _measured(self, trainer: L.Trainer) -> dict[str, Tensor]:
        """What the steps since the last value took; nothing if there were none."""
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
    """Sums up how long the Trainer waits for training batches, and starts the clock of training before it does."""

    def __init__(self, clock: Stopwatch) -> None:
        super().__init__()
        self.clock = clock
        self.seconds = 0.0
        self._began = 0.0

    def start(self, action_name: str) -> None:
        """A batch is about to be loaded."""
        if action_name.endswith(LOADING):
            self.clock.start()
            self._began = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """A batch was loaded."""
        if action_name.endswith(LOADING):
            self.seconds += time.perf_counter() - self._began


def _number(value: float) -> Tensor:
    """A number to log: on the host, where it needs no copy, and in float64, which holds the number of parameters."""
    return torch.tensor(value, dtype=torch.float64)


def _measurement(value: float) -> Tensor:
    """What a clock or a counter of bytes says, without the digits that say nothing."""
    return _number(float(f"{value:.5g}"))


def _parameters(module: L.LightningModule) -> int:
    return sum(each.numel() for each in module.parameters())


def _peak_memory(module: L.LightningModule) -> float:
    return torch.cuda.max_memory_allocated(module.device) / GIB
