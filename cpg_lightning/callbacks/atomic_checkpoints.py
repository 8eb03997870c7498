"""Lets a Trainer write its checkpoints so that the one before is never lost."""

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from cpg_lightning.runs.checkpoint_io import AtomicCheckpointIO


class AtomicCheckpoints(Callback):
    """Has all checkpoints of a Trainer written by :class:`~cpg_lightning.runs.checkpoint_io.AtomicCheckpointIO`.

    A checkpoint plugin that the Trainer was given stays.

    Raises:
        ValueError: At the start, if a ModelCheckpoint has ``save_last="link"``, which is written in another way.

    Example:
        >>> trainer = L.Trainer(callbacks=[AtomicCheckpoints()])  # doctest: +SKIP
    """

    only_watches = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set how checkpoints are written."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.save_last == "link":
                raise ValueError(
                    f'expected a ModelCheckpoint in {callback.dirpath} that writes its last checkpoint, got save_last="link", a '
                    "link that a kill can leave without its file; set save_last to true"
                )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
