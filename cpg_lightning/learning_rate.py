"""The schedule of the learning rate: linear warm-up, then decay to the end of training, or any scheduler of torch."""

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
    """To which end the learning rate decays, and from where; it is kept in checkpoints.

    Attributes:
        steps: Optimizer steps of the whole training; 0 before it begins.
        start: The step from which the learning rate decays, where the training was continued to another end; else 0.
        factor: The factor of the learning rate in that step.
    """

    steps: float = 0
    start: int = 0
    factor: float = 1.0


def schedule_of(
    lr_schedule: LRSchedule,
    optimizer: Optimizer,
    trainer: L.Trainer,
    warmup_steps: int,
    poly_power: float,
    plan: DecayPlan,
) -> LRScheduler:
    """The schedule of an optimizer, to be stepped after each optimizer step.

    Args:
        lr_schedule: ``poly``, ``cosine`` or ``constant``, or what builds a scheduler of torch from the optimizer.
        optimizer: The optimizer.
        trainer: Knows the steps of the whole training.
        warmup_steps: Optimizer steps of linear warm-up, of the first three.
        poly_power: Power of the polynomial decay.
        plan: Looked at in each step.

    Raises:
        ValueError: If the learning rate is to decay in a training without an end, or if a scheduler of torch needs a score,
            comes with a warm-up of this package or undoes factors of the learning rate.
    """
    if isinstance(lr_schedule, str):
        if lr_schedule != "constant" and trainer.max_steps == -1 and trainer.max_epochs in (None, -1):
            raise ValueError(
                "expected an end of training, for the learning rate to decay to; set max_epochs or max_steps, or lr_schedule "
                "constant"
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
            f"expected a schedule that keeps the factors between the groups' learning rates, which are {rates}, got "
            f"{type(schedule).__name__}, which sets them to {started}; leave lr_factors out, or give it a list of "
            f"{len(rates)} rates"
        )
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError(
            "expected a schedule that follows from the number of the step, got ReduceLROnPlateau, which needs a score; take "
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
    """The factor of the learning rate in a step; see :class:`~cpg_lightning.module.SegmentationModule` for the formula.

    A training that is continued to another end in step s, with the factor f, decays to that end from there: in place of
    ``warmup_steps`` the formula has s, and its result is multiplied by f.

    Args:
        decay: ``poly``, ``cosine`` or ``constant``.
        step: Number of the optimizer step, from 0.
        steps: Optimizer steps of the whole training; the first step does not need them.
        warmup_steps: Optimizer steps of linear warm-up.
        poly_power: Power of the polynomial decay.
        start: The step s; 0 for a training that was not continued to another end.
        factor: The factor f.
    """
    if step <= warmup_steps:
        return min(1.0, (step + 1) / max(1, warmup_steps))
    if decay == "constant":
        return 1.0
    remaining = max(0.0, (steps - step) / max(1, steps - max(start, warmup_steps)))
    return factor * (remaining**poly_power if decay == "poly" else (1 - math.cos(math.pi * remaining)) / 2)


def plan_decay(plan: DecayPlan, trainer: L.Trainer, lr_schedule: LRSchedule, warmup_steps: int) -> None:
    """Plan the decay to the end of a training that begins or continues.

    Args:
        plan: The plan in the checkpoint that it continues from, or a new one. It is changed in place.
        trainer: The Trainer, with its data and its optimizers.
        lr_schedule: See :func:`schedule_of`.
        warmup_steps: See :func:`schedule_of`.

    Raises:
        ValueError: If the learning rate has decayed to 0 already, and is to decay to another end.
    """
    steps, step = training_steps(trainer), trainer.global_step
    # Within the warm-up nothing has decayed yet.
    if plan.steps not in (0, steps) and lr_schedule in ("poly", "cosine") and step > warmup_steps:
        group = trainer.optimizers[0].param_groups[0]
        check_unfinished([group["lr"]])
        plan.start, plan.factor = step, group["lr"] / group["initial_lr"]
    plan.steps = steps


def check_unfinished(rates: Sequence[float]) -> None:
    """Refuse to continue a training to another end when its learning rates are 0.

    Raises:
        ValueError: If all are.
    """
    if rates and all(rate == 0 for rate in rates):
        raise ValueError(
            "expected a training that is not finished, to be continued to another end, got one whose learning rate has decayed "
            "to 0; --model.weights starts another training from its weights"
        )


def check_length(trainer: L.Trainer, schedule: LRScheduler, lr_schedule: LRSchedule, warmup_steps: int) -> None:
    """Compare a schedule with the number of steps of a training that begins.

    Raises:
        ValueError: If the schedule is one of torch that fails after fewer steps.
    """
    steps = training_steps(trainer)
    if isinstance(schedule, OneCycleLR) and schedule.total_steps < steps:
        raise ValueError(
            f"expected a OneCycleLR of at least the {steps:g} steps of the training, got {schedule.total_steps}, after which it "
            f"fails; set --model.lr_schedule.total_steps {steps:g}"
        )
    if lr_schedule in ("poly", "cosine") and steps <= warmup_steps:
        rank_zero_warn(
            f"the warm-up of {warmup_steps} steps is no shorter than the training of {steps:g}: "
            "the learning rate will not decay; set fewer warmup_steps or train for longer"
        )


def training_steps(trainer: L.Trainer) -> float:
    """Optimizer steps of the whole training; infinity before the data is loaded.

    ``trainer.estimated_stepping_batches`` is not used: it loads the data, too early for a run that resumes within an epoch.
    """
    limits: list[float] = [trainer.max_steps] if trainer.max_steps != -1 else []
    batches = trainer.num_training_batches
    if trainer.max_epochs not in (None, -1) and math.isfinite(batches):
        limits.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
    return min(limits, default=math.inf)
