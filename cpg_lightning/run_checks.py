"""Checks that a Trainer and data fit a module, made before anything is written."""

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
    """Check arguments of a module.

    Args:
        numbers: Arguments that must be 0 or more, by name.
        image_size: One or two numbers of pixels, or None.
        criterion: The criterion.

    Raises:
        ValueError: If an argument is out of range, or the criterion has another ``ignore_index`` than 255.
    """
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"expected {name} to be 0 or more and finite, got {number}")
    sides = image_size if isinstance(image_size, tuple | list) and len(image_size) == 2 else (image_size,)
    if image_size is not None and not all(isinstance(side, int) and 0 < side < 2**31 for side in sides):
        raise ValueError(f"expected image_size to be one or two positive numbers of pixels, got {image_size!r}")
    if getattr(criterion, "ignore_index", IGNORED) != IGNORED:
        raise ValueError(
            f"expected a criterion with ignore_index={IGNORED}, the value of pixels without a class in masks, got "
            f"{criterion.ignore_index}"
        )


def check_monitors(module: SegmentationModule, callbacks: Iterable[Callback]) -> None:
    """Check that callbacks such as EarlyStopping monitor a score that every validation computes.

    With a score that only some validations compute, a callback would compare the last value with itself.

    Raises:
        ValueError: If a callback monitors another score.
    """
    known, every = module.validation_scores(), module.metrics.boundary_metrics_every
    losses = [f"val/{name}" for name in module.metrics.loss.names]
    sometimes = [f"val/{name}" for name in module.metrics.boundary_means] if every > 1 else []
    for callback in callbacks:
        monitor = str(getattr(callback, "monitor", ""))
        if monitor in sometimes:
            raise ValueError(
                f"expected {type(callback).__name__} to monitor a score of every validation, got {monitor}, which "
                f"only every {every}th validation computes; set --model.boundary_metrics_every 1"
            )
        if monitor in losses and monitor not in known:
            raise ValueError(
                f"expected {type(callback).__name__} to monitor a score that validations compute, got {monitor}, which needs "
                "--model.evaluation_loss true and whole-image inference; monitor val/mIoU, or remove --model.inference"
            )
        if monitor.startswith("val/") and monitor not in known:
            raise ValueError(f"expected {type(callback).__name__} to monitor one of {', '.join(known)}, got {monitor}")


def check_parameters(network: SegmentationNetwork, processes: int) -> None:
    """Warn if parameters may be without gradients, for which several processes would wait forever."""
    if processes > 1 and network.unprobed is not None:
        rank_zero_warn(
            f"could not determine which parameters of {type(network).__name__} do not contribute to the logits: "
            f"{network.unprobed}; if the first step fails because of unused parameters, set --trainer.strategy "
            "ddp_find_unused_parameters_true"
        )


def check_data(module: SegmentationModule, data: L.LightningDataModule | None, stage: str) -> None:
    """Check that data has the classes of the module and an image size that the network accepts.

    Args:
        module: The module.
        data: The data module, or None.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        ValueError: If the classes or the size differ.
    """
    if isinstance(data, SegmentationDataModule):
        data.classes.check_same(module.classes.names, "the module")
    size = module.network.fixed_size
    if size is None:
        return
    only = f"the only size that {type(module.network).__name__} accepts, {size[0]}x{size[1]} pixels"
    crop_size = tuple(getattr(data, "crop_size", size))
    if stage == "fit" and crop_size != size:
        raise ValueError(
            f"expected training images of {only}, got a crop_size of {crop_size}; "
            f"set --data.augmentation.crop_size {list(size)}"
        )
    given = module.inference.window or module.image_size
    if not isinstance(given, tuple | list) or tuple(given) != size:
        raise ValueError(
            f"expected images in evaluation of {only}, got {'images of any size' if given is None else given}; set "
            f"--data.image_size {list(size)}, or an --model.inference with this window and border pad"
        )


def check_steps(network: SegmentationNetwork, data: L.LightningDataModule | None, trainer: L.Trainer) -> None:
    """Check the division of a step's images.

    Args:
        network: The network.
        data: The data module, or None.
        trainer: The Trainer.

    Raises:
        ValueError: If the images of a step do not divide evenly, if a callback would change their number during training, or
            if each device gets a single image and the network does not accept one.
    """
    if not isinstance(data, SegmentationDataModule):
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler | BatchSizeFinder):
            raise ValueError(
                f"expected no {type(callback).__name__}: data.batch_size is the number of images of each step over all devices; "
                "set it, and --trainer.accumulate_grad_batches if memory is short"
            )
    division = data.division
    # Synchronised BatchNorm uses the images of all processes. Lightning has no public attribute for it.
    synchronised = division.processes > 1 and (
        isinstance(trainer.strategy, ParallelStrategy) and trainer.strategy._layer_sync is not None
    )
    if division.batch_size_per_device > 1 or synchronised:
        return
    reason = single_image_error(network, data.crop_size)
    if reason is not None:
        raise ValueError(
            f"expected 2 or more images per device and batch, because {type(network).__name__} does not accept a single image in "
            f"training ({reason}), got data.batch_size={division.images} divided by {division.parts}. {division.alternatives(2)}"
        )


def single_image_error(network: SegmentationNetwork, crop_size: tuple[int, int]) -> str | None:
    """Return why a network accepts two images in training but not one. None if it accepts one image, or not even two.

    Args:
        network: The network.
        crop_size: Height and width of training images in pixels.
    """
    # A network that accepts one small image accepts a larger one, and the small one takes less time.
    for size in dict.fromkeys((network.fixed_size or (64, 64), crop_size)):
        reason = refusal(network, size, training=True)
        if reason is None:
            return None
    return None if refusal(network, crop_size, images=2, training=True) else reason
