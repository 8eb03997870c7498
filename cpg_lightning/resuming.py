"""Continue a training from a checkpoint as if it had not been interrupted."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.optim import Optimizer

from cpg_lightning.learning_rate import DecayPlan

# Keys in the state of callbacks that average weights (EMA, SWA).
AVERAGING = {"latest_update_step", "average_model_state"}
# Options of an optimizer that a schedule changes, or that do not change its results.
NOT_COMPARED = {"params", "lr", "foreach", "fused", "capturable", "differentiable"}
SCHEDULED = {"momentum", "betas", "max_momentum", "base_momentum", "initial_lr", "max_lr", "min_lr"}


class Progress:
    """The state of a training that Lightning does not save: its last validation and the plan of its learning rate.

    Attributes:
        validated_batch: Index of the training batch before the last validation; -1 without a validation.
        plan: The plan of the learning rate's decay.
    """

    def __init__(self) -> None:
        self.validated_batch = -1
        self.plan = DecayPlan()

    def state(self, trainer: L.Trainer) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        pending = validation_is_due(trainer) and self.validated_batch != trainer.fit_loop.total_batch_idx
        return {"validated_batch": self.validated_batch, "validation_pending": pending, "plan": asdict(self.plan)}

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state from a checkpoint. If a validation is pending, Lightning then begins with it."""
        state = checkpoint.get("progress", {})
        self.validated_batch = int(state.get("validated_batch", -1))
        plan = state.get("plan", {})
        self.plan.steps, self.plan.start = float(plan.get("steps", 0)), int(plan.get("start", 0))
        self.plan.factor = float(plan.get("factor", 1))
        mark_validation_pending(checkpoint["loops"]["fit_loop"], bool(state.get("validation_pending")))


def validation_is_due(trainer: L.Trainer) -> bool:
    """Whether a validation follows the last training batch, according to the Trainer's options.

    A ``val_check_interval`` in units of time is not supported; the result is then False.

    Args:
        trainer: A Trainer during ``fit``.
    """
    batch, every = trainer.fit_loop.batch_idx, trainer.val_check_batch
    if batch < 0 or not every or not trainer.enable_validation:
        return False
    if trainer.check_val_every_n_epoch is None:
        return (trainer.fit_loop.total_batch_idx + 1) % every == 0
    return (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch == 0 and (batch + 1) % every == 0


def mark_validation_pending(loops: dict[str, Any], pending: bool) -> None:
    """Change the progress in a checkpoint so that Lightning runs a pending validation before the next step.

    After a restart, Lightning skips a validation that was due directly after the checkpoint, and the end of the epoch with
    it. It does not skip them if the checkpoint was written during the validation. The progress is therefore changed to a
    validation that has begun and has completed no batch. Lightning then runs the whole validation, its callbacks, and the
    end of the epoch.

    Args:
        loops: ``checkpoint["loops"]["fit_loop"]``.
        pending: Whether a validation is pending.
    """
    training, validation = loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"]
    for scope in ("total", "current"):
        if pending:  # the training batch is complete, and the first batch of the validation has begun
            training[scope]["completed"] = training[scope]["processed"]
            validation[scope] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        else:  # an earlier pending validation changed the totals, which Lightning would take for another one
            done = validation[scope]["completed"]
            validation[scope] = {"ready": done, "started": done, "processed": done, "completed": done}


def follow_moved_checkpoints(checkpoint: Mapping[str, Any], callbacks: Iterable[Callback]) -> None:
    """Let each ModelCheckpoint find its checkpoints again in the folder of a run that was moved or copied.

    Otherwise, Lightning would forget the best score, and would keep the next checkpoint as the best one.

    Args:
        checkpoint: The content of a checkpoint file. The states of its callbacks are changed.
        callbacks: The Trainer's callbacks.
    """
    states = checkpoint.get("callbacks") or {}
    for callback in callbacks:
        state = states.get(callback.state_key) if isinstance(callback, ModelCheckpoint) else None
        before, now = (state or {}).get("dirpath"), getattr(callback, "dirpath", None)
        if state is None or before is None or now is None or before == now:
            continue
        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        files = {file for file in (*(state.get(name) for name in names), *state.get("best_k_models", {})) if file}
        moved = {file: os.path.join(now, os.path.relpath(file, before)) for file in files}
        if all(os.path.isfile(moved[file]) for file in files - {state.get("last_model_path")}):
            best = {moved[file]: score for file, score in state.get("best_k_models", {}).items()}
            state.update({name: moved.get(state.get(name), "") for name in names}, dirpath=now, best_k_models=best)


def check_continued(
    checkpoint: Mapping[str, Any], trainer: L.Trainer, optimizer: Optimizer, own_schedule: bool
) -> None:
    """Run the checks below. They describe the arguments and errors."""
    check_end(checkpoint, trainer)
    check_averaging(checkpoint, trainer.callbacks)  # type: ignore[attr-defined]
    check_optimizer(optimizer, checkpoint, own_schedule)


def check_end(checkpoint: Mapping[str, Any], trainer: L.Trainer) -> None:
    """Check that a training does not end before its checkpoint.

    Raises:
        ValueError: If ``max_epochs`` or ``max_steps`` is less than the checkpoint has.
    """
    epochs: Any = checkpoint
    for name in ("loops", "fit_loop", "epoch_progress", "current", "processed"):
        epochs = epochs.get(name) if isinstance(epochs, dict) else None
    steps = checkpoint.get("global_step")
    for name, end, done in (("max_epochs", trainer.max_epochs, epochs), ("max_steps", trainer.max_steps, steps)):
        if isinstance(done, int) and end not in (None, -1) and end < done:
            raise ValueError(f"expected {name} to be {done} or more, as in the checkpoint, got {end}")


def check_averaging(checkpoint: Mapping[str, Any], callbacks: Iterable[Callback]) -> None:
    """Check that a training with averaged weights (EMA, SWA) continues with the callback that averages them.

    Args:
        checkpoint: The content of a checkpoint file.
        callbacks: The Trainer's callbacks.

    Raises:
        ValueError: If such a callback is missing.
    """
    there = {each.state_key for each in callbacks}
    states = checkpoint.get("callbacks")
    found = states.items() if isinstance(states, dict) else ()
    missing = [key for key, state in found if isinstance(state, dict) and AVERAGING & state.keys() and key not in there]
    if missing:
        raise ValueError(
            f"expected the callback {missing[0]}, which averages the weights of the training in the checkpoint, got a Trainer "
            "without it; add it (--trainer.callbacks+=...), or start another training from the weights in the checkpoint with "
            "--model.weights"
        )


def check_optimizer(optimizer: Optimizer, checkpoint: Mapping[str, Any], own_schedule: bool) -> None:
    """Check that a training continues with the same optimizer and options. Otherwise, the checkpoint would override them.

    Args:
        optimizer: A new optimizer, with its scheduler.
        checkpoint: The content of a checkpoint file.
        own_schedule: Whether the schedule is one of this package. Other schedules may change more than the learning rate.

    Raises:
        ValueError: If an option differs. The message names the options.
    """
    states = checkpoint.get("callbacks")
    swa = isinstance(states, dict) and any(str(key).startswith("StochasticWeightAveraging") for key in states)
    left_out = NOT_COMPARED | (SCHEDULED if swa or not own_schedule else set())
    for new, old in zip(optimizer.param_groups, groups_of(checkpoint), strict=False):
        # A newer version of torch may have more options. It is another optimizer only if both sides lack an option.
        names = (
            new.keys() | old.keys() if new.keys() - old.keys() and old.keys() - new.keys() else new.keys() & old.keys()
        )
        other = sorted(name for name in names - left_out if new.get(name, "none") != old.get(name, "none"))
        if other:
            said = "; ".join(f"{name} is {new.get(name, 'none')} instead of {old.get(name, 'none')}" for name in other)
            raise ValueError(
                f"expected the optimizer of the training in the checkpoint, got a {type(optimizer).__name__} with other options: "
                f"{said}. --model.weights starts another training from the weights in the checkpoint"
            )


def groups_of(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups in a checkpoint, with their options; an empty list if they are unreadable."""
    states = checkpoint.get("optimizer_states")
    state = states[0] if isinstance(states, list) and states else None
    groups = state.get("param_groups") if isinstance(state, dict) else None
    return [each for each in groups if isinstance(each, dict)] if isinstance(groups, list) else []
