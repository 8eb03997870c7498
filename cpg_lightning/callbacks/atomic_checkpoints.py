"""Atomic writing of a Trainer's checkpoints, so that the previous checkpoint is never lost."""

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from cpg_lightning.runs.checkpoint_io import AtomicCheckpointIO


class AtomicCheckpoints(Callback):
    """Makes a Trainer write all checkpoints with :class:`~cpg_lightning.runs.checkpoint_io.AtomicCheckpointIO`.

    A checkpoint plugin that the user gave to the Trainer is kept.

    Raises:
        ValueError: At the start, if a ModelCheckpoint has ``save_last="link"``, which does not use the plugin.

    Example:
        >>> trainer = L.Trainer(callbacks=[AtomicCheckpoints()])  # doctest: +SKIP
    """

    only_watches = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set the checkpoint plugin."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.save_last == "link":
                raise ValueError(
                    f'expected a ModelCheckpoint in {callback.dirpath} that writes its last checkpoint, got save_last="link": '
                    "after a kill, the link may point to a missing file; set save_last to true"
                )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
