"""Learning rate schedules: linear warm-up and decay to the end of training, or any scheduler of torch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

Decay = Literal["poly", "cosine", "constant"]
LRSchedule = Decay | Callable[[Optimizer], LRScheduler]


@dataclass
class DecayPlan:
    """Start and end of the learning rate's decay. Checkpoints store it.

    Attributes:
        steps: Number of optimizer steps of the whole training; 0 before the training begins.
        start: First step of the decay, if the training was continued to another end; else 0.
        factor: Factor of the learning rate in step ``start``.
    """

    steps: float = 0
    start: int = 0
    factor: float = 1.0


def build_scheduler(
    lr_schedule: LRSchedule,
    optimizer: Optimizer,
    trainer: L.Trainer,
    warmup_steps: int,
    poly_power: float,
    plan: DecayPlan,
) -> LRScheduler:
    """Build the scheduler of an optimizer. It is stepped after each optimizer step.

    Args:
        lr_schedule: ``poly``, ``cosine`` or ``constant``, or a callable that builds a scheduler of torch from the optimizer.
        optimizer: The optimizer.
        trainer: The Trainer, which gives the number of steps of the whole training.
        warmup_steps: Number of optimizer steps of linear warm-up, for ``poly``, ``cosine`` and ``constant``.
        poly_power: Power of the polynomial decay.
        plan: The plan of the decay. It is read in each step.

    Raises:
        ValueError: If the learning rate should decay but the training has no end. For a scheduler of torch: if it needs a
            score, if ``warmup_steps`` is not 0, or if it changes the ratios of the groups' learning rates.
    """
    if isinstance(lr_schedule, str):
        if lr_schedule != "constant" and trainer.max_steps == -1 and trainer.max_epochs in (None, -1):
            raise ValueError(
                "expected an end of the training, at which the decay of the learning rate ends, got none; set max_epochs or "
                "max_steps, or set lr_schedule to constant"
            )
        return LambdaLR(
            optimizer,
            lambda step: rate_factor(
                lr_schedule, step, training_steps(trainer), warmup_steps, poly_power, plan.start, plan.factor
            ),
        )
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = lr_schedule(optimizer)
    started = [group["lr"] for group in optimizer.param_groups]
    if not all(math.isclose(new * rates[0], old * started[0]) for old, new in zip(rates, started, strict=True)):
        raise ValueError(
            f"expected a schedule that keeps the ratios of the groups' learning rates, which are {rates}, got "
            f"{type(schedule).__name__}, which sets them to {started}; remove lr_factors, or give the schedule a list of "
            f"{len(rates)} learning rates"
        )
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError(
            "expected a schedule that depends only on the step, got ReduceLROnPlateau, which needs a score; use "
            f"{', '.join(get_args(Decay))} or another scheduler of torch"
        )
    if warmup_steps:
        raise ValueError(
            f"expected warmup_steps to be 0 with {type(schedule).__name__}, got {warmup_steps}: the linear warm-up belongs to "
            f"{', '.join(get_args(Decay))}; set --model.warmup_steps 0"
        )
    return schedule


def rate_factor(
    decay: Decay,
    step: int,
    steps: float,
    warmup_steps: int,
    poly_power: float,
    start: int = 0,
    factor: float = 1.0,
) -> float:
    """Compute the factor of the learning rate in a step.

    :class:`~cpg_lightning.module.SegmentationModule` gives the formula. If a training is continued to another end, its
    learning rate decays from the current step s and the current factor f to the new end: the formula uses s instead of
    ``warmup_steps``, and its result is multiplied by f.

    Args:
        decay: ``poly``, ``cosine`` or ``constant``.
        step: Index of the optimizer step, from 0.
        steps: Number of optimizer steps of the whole training. It is not used in the first step.
        warmup_steps: Number of optimizer steps of linear warm-up.
        poly_power: Power of the polynomial decay.
        start: The step s; 0 if the training was not continued to another end.
        factor: The factor f.
    """
    if step <= warmup_steps:
        return min(1.0, (step + 1) / max(1, warmup_steps))
    if decay == "constant":
        return 1.0
    remaining = max(0.0, (steps - step) / max(1, steps - max(start, warmup_steps)))
    return factor * (remaining**poly_power if decay == "poly" else (1 - math.cos(math.pi * remaining)) / 2)


def plan_decay(plan: DecayPlan, trainer: L.Trainer, lr_schedule: LRSchedule, warmup_steps: int) -> None:
    """Plan the decay of the learning rate to the end of a new or continued training.

    Args:
        plan: The plan of the checkpoint, or a new one. It is changed in place.
        trainer: The Trainer, with its data and its optimizers.
        lr_schedule: See :func:`build_scheduler`.
        warmup_steps: See :func:`build_scheduler`.

    Raises:
        ValueError: If the training has another end than before, and the learning rate has already decayed to 0.
    """
    steps, step = training_steps(trainer), trainer.global_step
    # During the warm-up, the decay has not started.
    if plan.steps not in (0, steps) and lr_schedule in ("poly", "cosine") and step > warmup_steps:
        group = trainer.optimizers[0].param_groups[0]
        check_lr_above_zero([group["lr"]])
        plan.start, plan.factor = step, group["lr"] / group["initial_lr"]
    plan.steps = steps


def check_lr_above_zero(rates: Sequence[float]) -> None:
    """Check that a training that is continued to another end still has a learning rate above 0.

    Raises:
        ValueError: If all learning rates are 0.
    """
    if rates and all(rate == 0 for rate in rates):
        raise ValueError(
            "expected an unfinished training, to continue it to another end, got one whose learning rate has decayed "
            "to 0; --model.weights starts another training from its weights"
        )


def check_length(trainer: L.Trainer, schedule: LRScheduler, lr_schedule: LRSchedule, warmup_steps: int) -> None:
    """Compare a schedule with the number of steps of the training.

    Raises:
        ValueError: If the schedule is a OneCycleLR with fewer steps, which would fail after its last step.
    """
    steps = training_steps(trainer)
    if isinstance(schedule, OneCycleLR) and schedule.total_steps < steps:
        raise ValueError(
            f"expected a OneCycleLR of at least {steps:g} steps, the length of the training, got {schedule.total_steps}, after "
            f"which it fails; set --model.lr_schedule.total_steps {steps:g}"
        )
    if lr_schedule in ("poly", "cosine") and steps <= warmup_steps:
        rank_zero_warn(
            f"the warm-up of {warmup_steps} steps is not shorter than the training of {steps:g} steps: the learning rate "
            "will not decay; set fewer warmup_steps, or train longer"
        )


def training_steps(trainer: L.Trainer) -> float:
    """Return the number of optimizer steps of the whole training; infinity before the data is loaded.

    ``trainer.estimated_stepping_batches`` would load the data, which is too early for a run that resumes within an epoch.
    """
    limits: list[float] = [trainer.max_steps] if trainer.max_steps != -1 else []
    batches = trainer.num_training_batches
    if trainer.max_epochs not in (None, -1) and math.isfinite(batches):
        limits.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
    return min(limits, default=math.inf)
