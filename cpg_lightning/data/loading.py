"""Loaders and collation of batches, and resuming within an epoch."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from cpg_lightning.data.sampling import TrainingSampler
from cpg_lightning.data.workers import init_worker


class SegmentationLoader(DataLoader[dict[str, Any]]):
    """A loader whose workers send masks as uint8 and whose batches have int64 masks.

    Attributes:
        within_run: Returns whether a Trainer is running. The Trainer converts the masks on the device, with
            :meth:`~cpg_lightning.data.SegmentationDataModule.on_after_batch_transfer`. The loader then keeps uint8.
    """

    within_run: Callable[[], bool] = staticmethod(lambda: False)

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        int64_masks = not self.within_run()
        for batch in super().__iter__():
            yield with_int64_masks(batch) if int64_masks else batch


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate samples to a batch. Images keep their memory order (B, H, W, 3), so that stacking does not transpose them.

    The messages of images that could not be read are in ``broken``. Without such images, there is no ``broken``.

    Raises:
        ValueError: If images or labels differ in size.
    """
    broken = [sample["broken"] for sample in samples if "broken" in sample]
    readable = [sample for sample in samples if "broken" not in sample]
    if not readable:
        return {"name": [], "broken": broken}
    for what, key, first in (("images", "image", 1), ("labels", "mask", 0)):
        sizes = {tuple(sample[key].shape[first:]) for sample in readable if key in sample}
        if len(sizes) > 1:
            raise ValueError(
                f"expected {what} of one size in a batch, got {sorted(sizes)} (height, width); evaluate with an "
                "eval_batch_size of 1"
            )
    batch: dict[str, Any] = default_collate(
        [{**sample, "image": sample["image"].permute(1, 2, 0)} for sample in readable]
    )
    return {**batch, "image": batch["image"].permute(0, 3, 1, 2), **({"broken": broken} if broken else {})}


def common_size(batch: dict[str, Any]) -> tuple[int, int]:
    """Return the common height and width of the images of a batch before resizing.

    Raises:
        ValueError: If the sizes differ.
    """
    if "mask" in batch:
        height, width = batch["mask"].shape[-2:]
        return height, width
    sizes: Tensor = batch["size"]
    if (sizes != sizes[0]).any():
        raise ValueError(
            f"expected images of one size in a batch, got {sizes.tolist()}; predict with an eval_batch_size of 1"
        )
    height, width = sizes[0].tolist()
    return height, width


def loader_options(num_workers: int, ignored_signals: Sequence[int] = ()) -> dict[str, Any]:
    """Return the common options of all loaders.

    Args:
        num_workers: Number of worker processes.
        ignored_signals: See :func:`~cpg_lightning.data.workers.init_worker`.
    """
    return {
        "num_workers": num_workers,
        "worker_init_fn": partial(init_worker, ignored_signals=ignored_signals),
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "collate_fn": collate,
    }


def with_int64_masks(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the batch with an int64 mask, if it has a mask."""
    return {**batch, "mask": batch["mask"].to(torch.int64)} if "mask" in batch else batch


class TrainingLoader(SegmentationLoader):
    """A loader over a :class:`TrainingSampler` that resumes from a checkpoint, even within an epoch.

    It resumes with a whole step, even if steps are now divided differently. Lightning stores its state in checkpoints
    because it has the two methods of a stateful loader, ``state_dict`` and ``load_state_dict``.
    """

    progress: dict[str, int] = {"epoch": 0, "images": 0}  # noqa: RUF012 - replaced, never changed
    resumed: dict[str, int] | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        # A generator, so that the sampler is used only when the first batch is requested. Lightning creates the iterator
        # before it sets the epoch of the sampler.
        if isinstance(self.sampler, TrainingSampler):  # Trainer(overfit_batches=...) replaces it
            epoch, images = self.sampler.epoch, 0
            if self.resumed is not None and self.resumed["epoch"] == epoch:
                images = self.resumed["images"] // self.sampler.division.images * self.sampler.division.images
                self.sampler.start = images // self.sampler.num_replicas
            self.resumed = None
            self.progress = {"epoch": epoch, "images": images}
            step = cast(int, self.batch_size) * self.sampler.num_replicas
        else:
            step = 0
        for batch in super().__iter__():
            self.progress = {**self.progress, "images": self.progress["images"] + step}
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and the number of its images that all processes have received."""
        return self.progress

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume from this state, if the next iteration belongs to the same epoch."""
        self.resumed = state
