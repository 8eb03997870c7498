"""The schedule of the learning rate: linear warm-up, then polynomial decay to the end of training."""

import math

import lightning as L


def poly_factor(step: int, steps: float, warmup_steps: int, power: float) -> float:
    """The factor of the learning rate in a step; see :class:`~cpg_lightning.module.SegmentationModule` for the formula.

    Args:
        step: Number of the optimizer step, from 0.
        steps: Optimizer steps of the whole training; the first step does not need them.
        warmup_steps: Optimizer steps of linear warm-up.
        power: Power of the polynomial decay.
    """
    if step <= warmup_steps:
        return min(1.0, (step + 1) / max(1, warmup_steps))
    remaining = (steps - step) / max(1, steps - warmup_steps)
    return max(0.0, remaining) ** power


def training_steps(trainer: L.Trainer) -> float:
    """Optimizer steps of the whole training; infinity before the data is loaded.

    ``trainer.estimated_stepping_batches`` is not used: it loads the data, too early for a run that resumes within an epoch.
    """
    limits: list[float] = [trainer.max_steps] if trainer.max_steps != -1 else []
    batches = trainer.num_training_batches
    if trainer.max_epochs not in (None, -1) and math.isfinite(batches):
        limits.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
    return min(limits, default=math.inf)
