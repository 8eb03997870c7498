"""Columns of a logger's table of runs, for filtering."""

import os
from inspect import signature
from typing import Any

import lightning as L

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.module import SegmentationModule


def filter_columns(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
    """Return the columns for filtering runs in a logger.

    They are a flat dictionary, with the same names for runs of the command line and of Python.

    Args:
        trainer: The Trainer.
        module: The module.
    """
    data = getattr(trainer, "datamodule", None)
    datasets = getattr(data, "datasets", {})
    return {
        "dataset": None if data is None else type(data).__name__.removesuffix("DataModule"),
        "images": len(datasets["train"]) if "train" in datasets else None,
        "parameters": sum(each.numel() for each in module.parameters()),
        **(_of_parts(module) if isinstance(module, SegmentationModule) else {}),
        **_of_optimizer(trainer),
        "images_a_step": data.batch_size if isinstance(data, SegmentationDataModule) else None,
        "precision": trainer.precision,
        "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
        "devices": trainer.world_size,
    }


def _of_parts(module: SegmentationModule) -> dict[str, Any]:
    """Return the names of network and criterion, and the criterion's numbers."""
    criterion = module.criterion
    numbers = {name: getattr(criterion, name, None) for name in signature(type(criterion)).parameters}
    return {
        "network": type(module.network).__name__,
        "criterion": type(criterion).__name__,
        **{name: value for name, value in numbers.items() if isinstance(value, bool | int | float | str)},
    }


def _of_optimizer(trainer: L.Trainer) -> dict[str, Any]:
    """Return the optimizer and its learning rate without a schedule; empty before the optimizer is built."""
    if not trainer.optimizers:
        return {}
    group = trainer.optimizers[0].param_groups[0]
    rate = float(group.get("initial_lr", group["lr"]))
    return {"optimizer": type(trainer.optimizers[0]).__name__, "learning_rate": rate}
