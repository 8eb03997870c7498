"""Whether a Trainer and data fit a module: checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, GradientAccumulationScheduler
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn

from cpg_lightning.data.class_info import IGNORED
from cpg_lightning.data.data_module import SegmentationDataModule
from cpg_lightning.losses.criterion import SegmentationCriterion
from cpg_lightning.networks import SegmentationNetwork
from cpg_lightning.networks.probing import refusal

if TYPE_CHECKING:
    from cpg_lightning.module import SegmentationModule


def check_arguments(numbers: Mapping[str, float], image_size: object, criterion: SegmentationCriterion) -> None:
    """Refuse arguments of a module that are out of range.

    Args:
        numbers: Those that are 0 or more, by their names.
        image_size: One or two numbers of pixels, or None.
        criterion: The criterion.

    Raises:
        ValueError: For such arguments, and for a criterion that ignores another value than masks have.
    """
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"expected {name} to be 0 or more and finite, got {number}")
    sides = image_size if isinstance(image_size, tuple | list) and len(image_size) == 2 else (image_size,)
    if image_size is not None and not all(isinstance(side, int) and 0 < side < 2**31 for side in sides):
        raise ValueError(f"expected image_size to be one or two positive numbers of pixels, got {image_size!r}")
    if getattr(criterion, "ignore_index", IGNORED) != IGNORED:
        raise ValueError(
            f"expected a criterion with ignore_index={IGNORED}, which masks have where there is no class, got "
            f"{criterion.ignore_index}"
        )


def check_monitors(module: SegmentationModule, callbacks: Iterable[Callback]) -> None:
    """Refuse callbacks such as EarlyStopping on a score that no validation has, or not every validation.

    With a score of some validations, they would compare the last value with itself.

    Raises:
        ValueError: If a callback monitors such a score.
    """
    known, every = module.validation_scores(), module.metrics.boundary_metrics_every
    sometimes = [f"val/{name}" for name in module.metrics.boundary_means] if every > 1 else []
    for callback in callbacks:
        monitor = str(getattr(callback, "monitor", ""))
        if monitor in sometimes:
            raise ValueError(
                f"expected {type(callback).__name__} to monitor a score of every validation, got {monitor}, which is "
                f"computed in every {every}th; set --model.boundary_metrics_every 1"
            )
        if monitor.startswith("val/") and monitor not in known:
            raise ValueError(f"expected {type(callback).__name__} to monitor one of {', '.join(known)}, got {monitor}")


def check_parameters(network: SegmentationNetwork, processes: int) -> None:
    """Warn of a network that may have parameters without gradients, for which several processes would wait in vain."""
    if processes > 1 and network.unprobed is not None:
        rank_zero_warn(
            f"it is not known which parameters of {type(network).__name__} reach no logits: {network.unprobed}; if the first "
            "step stops over unused parameters, set --trainer.strategy ddp_find_unused_parameters_true"
        )


def check_data(module: SegmentationModule, data: L.LightningDataModule | None, stage: str) -> None:
    """Refuse data of other classes than the module's, or of a size that its network does not take.

    Args:
        module: The module.
        data: The data module, if there is one.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        ValueError: For such data.
    """
    if isinstance(data, SegmentationDataModule):
        data.classes.check_same(module.classes.names, "the module")
    size = module.network.fixed_size
    if size is None:
        return
    only = f"the one size that {type(module.network).__name__} takes, {size[0]}x{size[1]} pixels"
    crop_size = tuple(getattr(data, "crop_size", size))
    if stage == "fit" and crop_size != size:
        raise ValueError(
            f"expected training images of {only}, got a crop_size of {crop_size}; "
            f"set --data.augmentation.crop_size {list(size)}"
        )
    given = module.inference.window or module.image_size
    if not isinstance(given, tuple | list) or tuple(given) != size:
        raise ValueError(
            f"expected images of {only}, in evaluation, got {'images of any size' if given is None else given}; set "
            f"--data.image_size {list(size)}, or an --model.inference with this window and border pad"
        )


def check_steps(network: SegmentationNetwork, data: L.LightningDataModule | None, trainer: L.Trainer) -> None:
    """Refuse steps whose images do not divide, or change in training, or of which the network does not take its share.

    Args:
        network: The network.
        data: The data module, if there is one.
        trainer: The Trainer.

    Raises:
        ValueError: For such steps.
    """
    if not isinstance(data, SegmentationDataModule):
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler | BatchSizeFinder):
            raise ValueError(
                f"expected no {type(callback).__name__}: data.batch_size is the images of every step, on any number of devices; "
                "set it, and --trainer.accumulate_grad_batches where memory is short"
            )
    division = data.division
    # Synchronised BatchNorm has the images of all processes, which Lightning tells in no other way.
    synchronised = division.processes > 1 and (
        isinstance(trainer.strategy, ParallelStrategy) and trainer.strategy._layer_sync is not None
    )
    if division.share > 1 or synchronised:
        return
    reason = refusal_of_one(network, data.crop_size)
    if reason is not None:
        raise ValueError(
            f"expected 2 or more images on a device at a time, as {type(network).__name__} takes no single image in training "
            f"({reason}), got data.batch_size={division.images} divided by {division.parts}. {division.alternatives(2)}"
        )


def refusal_of_one(network: SegmentationNetwork, crop_size: tuple[int, int]) -> str | None:
    """Why a network takes two images in training, but not one; None if it takes one, or no two.

    Args:
        network: The network.
        crop_size: Height and width of training images in pixels.
    """
    # What takes one small image takes a larger one, in less time.
    for size in dict.fromkeys((network.fixed_size or (64, 64), crop_size)):
        reason = refusal(network, size, training=True)
        if reason is None:
            return None
    return None if refusal(network, crop_size, images=2, training=True) else reason
