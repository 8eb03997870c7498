"""What help begins with, the first lines of a training, filters for messages of the libraries, and errors whose message says enough."""

import logging
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_info

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.losses import SegmentationCriterion
from cpg_lightning.networks import SegmentationNetwork
from cpg_lightning.parsing import subclasses
from cpg_lightning.runs.identity import class_name

# Warnings and notes that tell a user of the command nothing.
WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\)",
    r".*LightningCLI's args parameter is intended",
    r"The dirpath has changed from",
    r".*predict.*returned `?None",
    r"The number of training batches .* is smaller than the logging interval",
)
NOTES = ("💡 Tip", "TPU available", "GPU available: False", "`weights_only` was not set")
LOGGERS = ("utilities.rank_zero", "trainer.connectors.checkpoint_connector")


def quieten() -> None:
    """Leave out messages of the libraries that tell a user of the command nothing."""
    for pattern in WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    for name in LOGGERS:
        logging.getLogger(f"lightning.pytorch.{name}").addFilter(_is_wanted)


def describe() -> str:
    """What ``cpg --help`` begins with."""
    families: dict[str, type[Any]] = {
        "data": SegmentationDataModule,
        "networks": SegmentationNetwork,
        "criteria": SegmentationCriterion,
    }
    names = {title: sorted(known.__name__ for known in subclasses(family)) for title, family in families.items()}
    known = " ".join(f"{title}: {', '.join(classes)}." for title, classes in names.items())
    return (
        "Trains and evaluates segmentation networks with boundary-aware losses. Known by their short names, and others by "
        f"their class path: {known} What is in a dataset, and wrong with it: cpg check-data --help. Many runs, and what follows "
        "from them: cpg study --help, cpg report --help. First run: cpg fit "
        "--config experiments/quickstart.yaml; where there is no experiments/, cpg init writes it"
    )


def _is_wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOTES)


def introduce(
    config: Mapping[str, Any],
    trainer: L.Trainer,
    module: L.LightningModule,
    data: SegmentationDataModule,
    folder: Path,
) -> None:
    """Print what is trained, a line for each part of it.

    Args:
        config: The configuration of ``fit`` as plain values.
        trainer: The Trainer.
        module: The module.
        data: The data module, after its ``setup("fit")``.
        folder: The folder of the run.
    """
    images = ", ".join(f"{len(dataset)} {split}" for split, dataset in data.datasets.items())
    parameters = sum(each.numel() for each in module.parameters())
    division = data.division
    devices = f"{division.processes} {type(trainer.accelerator).__name__.removesuffix('Accelerator')}"
    workers = data.loader_options()["num_workers"]
    for line in (
        f"data: {class_name(config['data']['class_path'])}, {images} images, {data.num_classes} classes",
        f"network: {class_name(config['model']['network']['class_path'])}, {parameters:,} parameters",
        f"criterion: {_named(config['model']['criterion'])}",
        f"optimizer: {_named(config['model'].get('optimizer') or {'class_path': 'torch.optim.AdamW'})}",
        f"step: {division.images} images, {division.share} at a time on {devices}, precision {trainer.precision}",
        f"loading: {workers} workers a process",
        f"folder: {folder}",
    ):
        rank_zero_info(line)


def _named(entry: Mapping[str, Any]) -> str:
    """A class with its arguments that are numbers or text."""
    arguments = (entry.get("init_args") or {}).items()
    shown = ", ".join(f"{name}={value}" for name, value in arguments if isinstance(value, int | float | str))
    return f"{class_name(entry['class_path'])}({shown})"


def bad_input() -> tuple[type[Exception], ...]:
    """The errors whose message alone is shown."""
    wandb = sys.modules.get("wandb")  # only what is imported can have raised
    return (
        ValueError,
        OSError,
        ImportError,
        MemoryError,
        MisconfigurationException,
        *(() if wandb is None else (wandb.errors.Error,)),
    )
