"""Stops a training whose loss, gradients or weights are not finite, before it writes a checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from cpg_lightning.callbacks.processes import gather_from_processes
from cpg_lightning.networks.weights import non_finite

MOST_NAMES = 50  # largest number of image names in a message
SOME_WEIGHTS = 3  # largest number of weights in a message


@dataclass
class Batch:
    """A training batch whose loss has not been checked yet.

    Attributes:
        step: The optimizer step of the batch, from 1.
        epoch: The epoch, from 0.
        rate: The learning rate.
        names: The names of the images.
        loss: The loss, on its device.
    """

    step: int
    epoch: int
    rate: float
    names: list[str]
    loss: Tensor


class TerminateOnNonFinite(Callback):
    """Stops the training with a ValueError when it has diverged. Diverged weights are not saved in a checkpoint.

    Losses stay on their device until they are checked together. They are checked every ``every_n_steps`` steps, at the end
    of an epoch, and before a checkpoint is written. An infinite or NaN loss stops the training in all processes. The
    gradients of the checked step, before clipping, must be finite too. A ``GradScaler`` skips steps with infinite gradients
    by design; with it, a scale below 1 stops the training instead. At the end of an epoch and before a checkpoint is
    written, weights and buffers are checked as well. Buffers that were not finite at the start, such as masks, are excluded.
    A checkpoint with ``save_weights_only`` is not checked, because Lightning calls no hook for it.

    The message names the step, the epoch, the learning rate and the images of the last batches.

    Args:
        every_n_steps: Number of steps between two checks; by default, the losses are checked in the steps that Lightning logs.

    Raises:
        ValueError: If ``every_n_steps`` is less than 1.

    Example:
        >>> trainer = L.Trainer(callbacks=[TerminateOnNonFinite()])  # doctest: +SKIP
    """

    only_watches = True

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"expected every_n_steps to be 1 or more, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.batches: list[Batch] = []  # batches since the last check
        self.step, self.rate = 0, 0.0  # step and learning rate of the current batch
        self.largest_gradient: Tensor | None = None  # largest gradient of the checked step
        self.constant: set[str] = set()  # buffers that are not finite by design

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the state."""
        self.batches, self.largest_gradient = [], None
        self.constant = set(non_finite(dict(pl_module.named_buffers())))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Store the step and its learning rate, which changes after the step."""
        self.step = trainer.global_step + 1
        self.rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Find the largest gradient of a step that is checked."""
        if self._is_due(trainer, self.step) and _scaler(trainer) is None:
            gradients = [each.grad for each in pl_module.parameters() if each.grad is not None]
            self.largest_gradient = get_total_norm(gradients, norm_type=math.inf) if gradients else None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store the loss, and check the last losses if it is time."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            names = [str(name) for name in batch.get("name", [])] if isinstance(batch, Mapping) else []
            self.batches.append(Batch(self.step, trainer.current_epoch, self.rate, names, loss.detach()))
        if trainer.global_step == self.step and self._is_due(trainer, self.step):
            self._look(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the last losses and the weights."""
        self._look(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the last losses and the weights before the checkpoint is written."""
        if trainer.state.fn == "fit":
            self._look(trainer, pl_module)

    def _is_due(self, trainer: L.Trainer, step: int) -> bool:
        every = self.every_n_steps or trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
        return step % every == 0

    def _look(self, trainer: L.Trainer, module: L.LightningModule | None = None) -> None:
        """Raise a ValueError in all processes if a value in one of them is not finite."""
        batches, self.batches = self.batches, []
        gradient, self.largest_gradient = self.largest_gradient, None
        problem = _wrong_loss(batches, gradient) or _wrong_scale(trainer, batches)
        if problem is None and module is not None:
            problem = self._wrong_weights(trainer, module)
        if trainer.strategy.reduce_boolean_decision(problem is not None, all=False):
            problems = gather_from_processes([] if problem is None else [problem])
            names = gather_from_processes([name for batch in batches for name in batch.names])
            raise ValueError(_message(problems[0], names))

    def _wrong_weights(self, trainer: L.Trainer, module: L.LightningModule) -> str | None:
        buffers = {name: buffer for name, buffer in module.named_buffers() if name not in self.constant}
        names = non_finite({**dict(module.named_parameters()), **buffers})
        if not names:
            return None
        shown = ", ".join(names[:SOME_WEIGHTS]) + (", ..." if len(names) > SOME_WEIGHTS else "")
        where = f"after step {trainer.global_step}, epoch {trainer.current_epoch}, learning rate {self.rate:g}"
        return f"expected finite weights, got {len(names)} that are infinite or NaN {where}: {shown}"


def _wrong_loss(batches: list[Batch], gradient: Tensor | None) -> str | None:
    """Return the problem of the losses or the largest gradient, or None. This waits for the device once."""
    values = [batch.loss for batch in batches] + ([] if gradient is None else [gradient])
    numbers = torch.stack([value.float().reshape(()) for value in values]).tolist() if values else []
    for batch, number in zip(batches, numbers, strict=False):
        if not math.isfinite(number):
            return f"expected a finite loss, got {number} {_place(batch)}"
    if gradient is not None and not math.isfinite(numbers[-1]):
        return f"expected finite gradients, got a largest gradient of {numbers[-1]} {_place(batches[-1])}"
    return None


def _wrong_scale(trainer: L.Trainer, batches: list[Batch]) -> str | None:
    """Return the problem of a GradScaler that has halved its scale too often, or None. It halves it when it skips a step."""
    scaler = _scaler(trainer)
    if scaler is None or not batches or scaler.get_scale() >= 1:
        return None
    return (
        "expected gradients that half precision can hold, got a scale of the loss below 1, "
        f"{scaler.get_scale():g}, {_place(batches[-1])}; --trainer.precision bf16-mixed needs no scaling"
    )


def _scaler(trainer: L.Trainer) -> Any:
    """Return the GradScaler; None for other precisions."""
    return getattr(trainer.precision_plugin, "scaler", None)


def _place(batch: Batch) -> str:
    return f"in step {batch.step}, epoch {batch.epoch}, learning rate {batch.rate:g}"


def _message(problem: str, names: list[str]) -> str:
    images = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    last = f" The images since the last check: {images}." if names else ""
    return (
        f"{problem}. The training has stopped; earlier checkpoints are complete. Use a lower learning rate "
        f"(--model.optimizer.lr), more warm-up (--model.warmup_steps) or --trainer.gradient_clip_val.{last}"
    )
