"""Division of the images of an optimizer step among processes and accumulated batches."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Division:
    """The images of one optimizer step, divided evenly.

    Args:
        images: Number of images of one step, over all processes.
        processes: World size: number of processes, one per device.
        batches: Number of batches that each process accumulates in a step.

    Raises:
        ValueError: If the images do not divide evenly. The message names numbers that do.

    Example:
        >>> Division(images=12, processes=2, batches=3).batch_size_per_device
        2
    """

    images: int
    processes: int = 1
    batches: int = 1

    def __post_init__(self) -> None:
        if self.images % (self.processes * self.batches):
            raise ValueError(
                f"expected data.batch_size, the images of one step over all devices, to be divisible by {self.parts}, got "
                f"{self.images}. {self.alternatives()}"
            )

    @property
    def batch_size_per_device(self) -> int:
        """Number of images of one batch of one device."""
        return self.images // (self.processes * self.batches)

    @property
    def images_per_batch(self) -> int:
        """Number of images of one batch over all processes."""
        return self.images // self.batches

    @property
    def parts(self) -> str:
        """Number of devices and accumulated batches of a step, as text."""
        devices = f"{self.processes} device{'s' * (self.processes > 1)}"
        return devices if self.batches == 1 else f"{devices} times {self.batches} accumulated batches"

    def alternatives(self, smallest: int = 1) -> str:
        """Suggest options of the command line with which the images divide evenly. Each suggestion changes one option.

        Args:
            smallest: Smallest allowed number of images of one batch of one process.
        """
        parts = self.processes * self.batches
        below = self.images // parts * parts
        sizes = [each for each in (below, below + parts, smallest * parts) if each >= smallest * parts]
        options = [
            ("--trainer.devices", self._factors(self.batches, smallest)),
            ("--trainer.accumulate_grad_batches", self._factors(self.processes, smallest) if self.batches > 1 else []),
            ("--data.batch_size", sorted({*sizes} - {self.images})[:2]),
        ]
        return f"Set {'; or '.join(f'{option} {_listed(numbers)}' for option, numbers in options if numbers)}"

    def _factors(self, other: int, smallest: int) -> list[int]:
        """Return the numbers n for which n times ``other`` divides the images into parts of at least ``smallest``."""
        numbers = range(1, self.images // (other * smallest) + 1)
        return [number for number in numbers if self.images % (number * other) == 0]

    def check_images(self, images: int) -> None:
        """Check that there are enough training images for one step.

        Raises:
            ValueError: If there are fewer images.
        """
        if images < self.images:
            raise ValueError(
                f"expected at least data.batch_size={self.images} training images, got {images}; set a smaller batch_size"
            )

    def check_limit(self, images: int, limit: float) -> None:
        """Check that a limit of batches per epoch is a whole number of steps. Otherwise, Lightning takes an incomplete step.

        Args:
            images: Number of training images.
            limit: ``limit_train_batches`` of the Trainer: a number of batches, or a fraction of an epoch as a float.

        Raises:
            ValueError: If the limit ends within a step.
        """
        batches = images // self.images * self.batches
        limited = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
        if limited % self.batches:
            whole = limited // self.batches * self.batches
            raise ValueError(
                f"expected limit_train_batches, which overfit_batches and fast_dev_run set too, to be whole steps of {self.batches} "
                f"accumulated batches, got {limited} batches; set it to {whole or self.batches}"
            )


def recount_batches(checkpoint: dict[str, Any], division: Division) -> None:
    """Convert the numbers of batches in a checkpoint to another division of steps, rounded down to whole steps.

    An incomplete step is repeated with the same images, because its gradient is not in the checkpoint.

    Args:
        checkpoint: A checkpoint. Its ``images_per_batch`` is the number of images of a batch over all processes.
        division: The current division of a step.
    """
    before = checkpoint.get("images_per_batch")
    if not isinstance(before, int) or before < 1:
        return
    loop = checkpoint["loops"]["fit_loop"]
    progress = loop["epoch_loop.batch_progress"]
    current = progress["current"]
    if current["ready"] * before % division.images and current["completed"] < current["ready"]:
        # On resuming, Lightning counts a step for a batch that was not completed. Here, that batch is repeated.
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
    for counts in (progress["total"], current):
        steps = counts["ready"] * before // division.images
        moved = steps * division.batches - counts["ready"]
        counts.update({name: count + moved for name, count in counts.items()})
    validated = checkpoint.get("progress", {}).get("validated_batch", -1)
    if validated >= 0:  # index of a batch, from 0
        checkpoint["progress"]["validated_batch"] = (validated + 1) * before // division.images * division.batches - 1


def _listed(numbers: Iterable[int]) -> str:
    """Format numbers as text, e.g. ``1, 2 or 4``."""
    *first, last = (str(number) for number in numbers)
    return f"{', '.join(first)} or {last}" if first else last
