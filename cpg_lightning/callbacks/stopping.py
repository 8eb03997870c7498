"""Ends a training after the step in which a signal came, with a checkpoint to continue from."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.runs.folder import CHECKPOINTS

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal(Callback):
    """Ends a training after the step in which SIGINT (Ctrl-C) or SIGTERM came, in all processes after the same step.

    Writes ``checkpoints/last.ckpt`` in the Trainer's ``default_root_dir`` and raises Lightning's ``SIGTERMException``, with
    which Python exits with status 130 (SIGINT) or 143 (SIGTERM). A validation is left after the batch, and begins again when
    the training continues. A second signal ends the process at once. A signal that is ignored at the start stays ignored.

    In a SLURM job, SIGUSR1 ends a training in the same way (status 138). In place of ``last.ckpt``, Lightning writes its
    ``hpc_ckpt_N.ckpt`` and asks SLURM to start the job again, unless ``SLURMEnvironment(auto_requeue=False)``.

    The command adds it to trainings as the last callback, because callbacks after it do not see the end of the last step.
    It replaces Lightning's signal handlers. With Lightning's handler of SIGTERM, processes end after different steps and wait
    for each other. Lightning's handler of SIGUSR1 writes a checkpoint in the middle of a step; the images of this step are
    then skipped when the training continues.

    Example:
        >>> trainer = L.Trainer(callbacks=[StopOnSignal()])  # doctest: +SKIP
    """

    only_watches = True

    def __init__(self) -> None:
        self.received = 0  # the number of the first signal
        self.steps_before = 0
        self.listens = False
        self.requeue_signal: int | None = None  # signal of SLURM before it requeues the job
        self.requeue: Callable[[int, FrameType | None], Any] | None = None  # Lightning's handler of it
        self.group: Any = None  # of all processes, on the CPU: no device is waited for
        self.batches = 0  # of a validation that every process has

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the workers that load images outlive the signal: the step may need them."""
        self.requeue_signal = _requeue_signal(trainer)
        data = getattr(trainer, "datamodule", None)
        if stage == "fit" and isinstance(data, SegmentationDataModule):
            # SLURM sends its signal to the workers too.
            data.ignored_signals = SIGNALS if self.requeue_signal is None else (*SIGNALS, self.requeue_signal)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen from here on: Lightning has just set its handlers, and sets those from before at the end."""
        self._listen(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen, if there was no sanity check."""
        self._listen(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the step."""
        self.steps_before = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End here if the batch has ended a step: accumulated gradients are in no checkpoint."""
        if trainer.global_step > self.steps_before:
            self._end_if_signalled(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find after which batches of the validation all processes can end."""
        # A callback that averages weights has put others in the module's place until the validation ends.
        averaging = any(isinstance(each, WeightAveraging) for each in trainer.callbacks)  # type: ignore[attr-defined]
        batches = trainer.num_val_batches[0] if trainer.num_val_batches else 0
        own = 0 if averaging or trainer.sanity_checking or not math.isfinite(batches) else int(batches)
        self.batches = -self._largest(-own)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End here if a signal came."""
        if dataloader_idx == 0 and batch_idx < self.batches:
            self._end_if_signalled(trainer)

    def _listen(self, trainer: L.Trainer) -> None:
        if self.listens:
            return
        self.listens = True
        if trainer.world_size > 1 and distributed.is_available() and distributed.is_initialized():
            self.group = distributed.new_group(backend="gloo")

        def hear(number: int, frame: FrameType | None) -> None:
            if self.received and self.requeue_signal in (number, self.received):
                return  # SLURM sends SIGTERM to a job that it requeues, and later SIGKILL
            if self.received:
                if trainer.strategy.launcher is not None:
                    trainer.strategy.launcher.kill(signal.SIGKILL)
                os._exit(128 + number)
            self.received = number
            if trainer.is_global_zero:  # not by print, which may be at work in the code that the signal has interrupted
                os.write(2, b"\nending after this step, with a checkpoint; a second signal does not wait\n")

        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, hear)
        handler = None if self.requeue_signal is None else signal.getsignal(self.requeue_signal)
        if self.requeue_signal is not None and callable(handler):
            self.requeue = handler
            signal.signal(self.requeue_signal, hear)

    def _end_if_signalled(self, trainer: L.Trainer) -> None:
        number = self._largest(self.received)
        if not number:
            return
        if self.requeue is not None and number == self.requeue_signal:
            self.requeue(number, None)
        else:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / CHECKPOINTS / "last.ckpt", weights_only=False)
        rank_zero_info(f"ended by {signal.Signals(number).name} after step {trainer.global_step}")
        # The process that has started others waits for them, and takes another status than 0 for a fault of theirs.
        raise SIGTERMException(128 + number if trainer.local_rank == 0 else 0)

    def _largest(self, number: int) -> int:
        """The largest number of all processes; each process has to call it."""
        if self.group is None:
            return number
        numbers = torch.tensor([number])
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX, group=self.group)
        return int(numbers.item())


def _requeue_signal(trainer: L.Trainer) -> int | None:
    """Return the signal after which Lightning requeues the SLURM job; None if Lightning does not requeue it."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return environment.requeue_signal
    return None
