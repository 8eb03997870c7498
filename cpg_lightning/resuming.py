"""What a training needs to go on from a checkpoint as if it had not been broken off."""

from typing import Any

import lightning as L


def is_due(trainer: L.Trainer) -> bool:
    """Whether a validation follows the last training batch, by the Trainer's options; not for a ``val_check_interval`` in time.

    Args:
        trainer: A Trainer that trains.
    """
    batch, every = trainer.fit_loop.batch_idx, trainer.val_check_batch
    if batch < 0 or not every or not trainer.enable_validation:
        return False
    if trainer.check_val_every_n_epoch is None:
        return (trainer.fit_loop.total_batch_idx + 1) % every == 0
    return (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch == 0 and (batch + 1) % every == 0


def begin_with_validation(loops: dict[str, Any], pending: bool) -> None:
    """Change the progress in a checkpoint so that Lightning runs a pending validation, whole, before the next step.

    Lightning leaves out the validation of the batch that a checkpoint was written after, and the end of the epoch with it,
    unless the checkpoint was written within that validation: this is what the progress then says, with none of its batches
    done. All that follows is Lightning's own: the validation, its callbacks, and the end of the epoch.

    Args:
        loops: ``checkpoint["loops"]["fit_loop"]``.
        pending: Whether a validation is pending.
    """
    training, validation = loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"]
    for scope in ("total", "current"):
        if pending:  # the training batch is done, and the first of the validation has begun
            training[scope]["completed"] = training[scope]["processed"]
            validation[scope] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        else:  # what a pending validation has left in the totals would say that another is
            done = validation[scope]["completed"]
            validation[scope] = {"ready": done, "started": done, "processed": done, "completed": done}
