"""Messages with cause and remedy for errors during a run."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.data.steps import Division
from cpg_lightning.module import SegmentationModule
from cpg_lightning.run_checks import single_image_error

# Messages of torch's allocators for the CPU, CUDA and other devices, and of the libraries that torch calls.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")
LOST_WORKERS = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")  # part of torch's message


@contextmanager
def explain_errors(
    trainer: L.Trainer, module: SegmentationModule, data: SegmentationDataModule, checkpoint: str | None
) -> Iterator[None]:
    """Context manager around a Trainer's run. An error with a known remedy is raised again with a message that names it.

    Args:
        trainer: The Trainer.
        module: The module.
        data: The data module.
        checkpoint: The checkpoint that the Trainer restores, if any.

    Raises:
        ValueError: If the state in the checkpoint cannot be restored.
        MemoryError: If a device has too little memory.
        ChildProcessError: If the operating system kills a worker process that loads images.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        if not _is_in(error, "checkpoint_connector.py", "restore"):
            raise
        raise ValueError(
            f"expected a checkpoint with the complete state of a training, got one whose state cannot be restored "
            f"({type(error).__name__}: {error}): {checkpoint}"
        ) from error
    except RuntimeError as error:
        lost = LOST_WORKERS.search(str(error))
        if lost is not None:
            raise ChildProcessError(_about_workers(lost[1], error)) from error
        if not (isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)):
            raise
        raise MemoryError(f"{_remedy(error, trainer, module, data)} (torch: {str(error).splitlines()[0]})") from error


def _is_in(error: BaseException, file: str, function: str = "") -> bool:
    """Whether an error was raised inside a function of one of Lightning's files."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.filename.endswith(file) and function in frame.name for frame in frames)


def _about_workers(processes: str, error: RuntimeError) -> str:
    return (
        f"expected the worker processes that load images to run until the end, but the operating system killed process "
        f"{processes}, most often because memory is short (torch: {str(error).strip().splitlines()[0]}). Use fewer workers "
        "(--data.num_workers), or provide more memory, and in a container more shared memory (--shm-size). Earlier "
        "checkpoints are complete"
    )


def _remedy(error: BaseException, trainer: L.Trainer, module: SegmentationModule, data: SegmentationDataModule) -> str:
    if _is_in(error, "evaluation_loop.py") or _is_in(error, "prediction_loop.py"):
        if data.eval_batch_size > 1:
            return f"out of memory in evaluation, {data.eval_batch_size} images at a time: set --data.eval_batch_size 1"
        return (
            "out of memory in evaluation, one image at a time: use sliding windows with --model.inference Inference "
            "--model.inference.window and a height and width, e.g. those of training images"
        )
    if _is_in(error, "training_epoch_loop.py"):
        alone = single_image_error(module.network, data.crop_size) is None
        return smaller_batches(data.division, getattr(trainer, "val_check_interval", None), 1 if alone else 2)
    return "out of memory"


def smaller_batches(division: Division, val_check_interval: float | None, smallest: int = 1) -> str:
    """Return the message for a training step that needs too much memory.

    If the images of the step divide into smaller batches, the remedy is gradient accumulation, which keeps the step.

    Args:
        division: Division of the images of a step.
        val_check_interval: The Trainer's option. An int is a number of batches; a float is a fraction of an epoch.
        smallest: Smallest number of images that the network accepts in one batch.
    """
    size = division.batch_size_per_device
    step = f"out of memory in a training step of {division.images} images, {size} at a time on a device"
    for parts in range(2, size // smallest + 1):
        if size % parts == 0:
            flags = f"--trainer.accumulate_grad_batches {parts * division.batches}"
            if isinstance(val_check_interval, int):
                flags += f" --trainer.val_check_interval {parts * val_check_interval}"
            return (
                f"{step}: set {flags}, {size // parts} at a time. The images of a step and the learning rate stay "
                "the same; BatchNorm and the means of the losses then use fewer images"
            )
    return f"{step}: set a smaller --data.augmentation.crop_size, or --trainer.precision bf16-mixed"
