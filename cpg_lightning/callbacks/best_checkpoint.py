"""Keeps the checkpoint of the validation with the best finite score."""

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor


class BestCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that ignores infinite and NaN scores.

    Lightning's ModelCheckpoint keeps the first checkpoint as the best one even if its score is NaN. The mIoU is NaN if the
    validation has no labelled pixel. Arguments and attributes are those of ModelCheckpoint.

    Example:
        >>> best = BestCheckpoint(monitor="val/mIoU", mode="max")
    """

    only_watches = True

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Whether a score is among the best."""
        if current is not None and not current.isfinite():
            rank_zero_warn(
                f"{self.monitor} is {current.item()} after step {trainer.global_step}: this checkpoint is not kept as one of "
                "the best; a validation without labelled pixels has no score, see cpg check-data"
            )
            return False
        return super().check_monitor_top_k(trainer, current)
