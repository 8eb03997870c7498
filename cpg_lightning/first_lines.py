"""The first lines of a training: data, network, criterion, optimizer, step, loading and folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.optimization import DEFAULT_OPTIMIZER
from cpg_lightning.runs.given_values import defaults_of
from cpg_lightning.runs.naming import class_name


def print_first_lines(
    config: Mapping[str, Any],
    trainer: L.Trainer,
    module: L.LightningModule,
    data: SegmentationDataModule,
    folder: Path,
) -> None:
    """Print one line for each part of a training.

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
    at_once = division.batch_size_per_device
    devices = f"{division.processes} {type(trainer.accelerator).__name__.removesuffix('Accelerator')}"
    workers = data.loader_options()["num_workers"]
    default = {"class_path": DEFAULT_OPTIMIZER.__name__, "init_args": defaults_of(DEFAULT_OPTIMIZER)}
    for line in (
        f"data: {class_name(config['data']['class_path'])}, {images} images, {data.num_classes} classes",
        f"network: {class_name(config['model']['network']['class_path'])}, {parameters:,} parameters",
        f"criterion: {_named(config['model']['criterion'])}",
        f"optimizer: {_named(config['model'].get('optimizer') or default)}",
        f"step: {division.images} images, {at_once} at a time on {devices}, precision {trainer.precision}",
        f"loading: {workers} workers per process",
        f"folder: {folder}",
    ):
        rank_zero_info(line)


def _named(entry: Mapping[str, Any]) -> str:
    """Return a class name with those arguments that are numbers or strings."""
    arguments = (entry.get("init_args") or {}).items()
    shown = ", ".join(f"{name}={value}" for name, value in arguments if isinstance(value, int | float | str))
    return f"{class_name(entry['class_path'])}({shown})"
