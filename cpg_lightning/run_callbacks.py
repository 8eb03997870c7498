"""The callbacks that the command adds to a run, and the folders of its checkpoints and loggers."""

import os
import sys
from pathlib import Path

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar

from cpg_lightning.callbacks import AtomicCheckpoints, Costs, MetricsFile, ProgressLines, TerminateOnNonFinite
from cpg_lightning.parsing import configured_classes, import_object
from cpg_lightning.runs.folder import CHECKPOINTS


def callbacks_of_runs(trainer: Namespace, subcommand: str | None) -> list[Callback]:
    """Return the callbacks to add to those of a configuration. A class that the configuration lists is not added.

    Args:
        trainer: The Trainer's options.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``; None if no subcommand is run.
    """
    kinds: list[type[Callback]] = [TerminateOnNonFinite, AtomicCheckpoints] if subcommand == "fit" else []
    if subcommand is not None:
        # They do nothing in evaluations. Without them, Lightning warns that callbacks of the checkpoint are missing.
        kinds += [Costs, MetricsFile]
    there = [import_object(each.class_path) for each in configured_classes(trainer.get("callbacks"))]
    bar = any(issubclass(each, ProgressBar) for each in there)
    if trainer.enable_progress_bar is not False and not bar and not sys.stdout.isatty():
        kinds.append(ProgressLines)
    return [] if trainer.fast_dev_run else [kind() for kind in kinds if kind not in there]


def keep_checkpoints_in(folder: Path, trainer: L.Trainer) -> None:
    """Set the folder of each ModelCheckpoint without ``dirpath``, also of the Trainer's own one, to that of the run."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = os.path.realpath(folder / CHECKPOINTS)


def keep_logs_in(folder: Path, trainer: Namespace) -> None:
    """Set the folder of each logger whose ``save_dir`` is ``.``, such as WandbLogger's default, to the folder of the run."""
    for logger in configured_classes(trainer.get("logger")):
        if logger.get("init_args", {}).get("save_dir") == ".":
            logger.init_args.save_dir = str(folder.absolute())
