"""Samplers: the order of the images, their division among processes, and their random seeds."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from cpg_lightning.data.steps import Division


@dataclass(frozen=True)
class SeededIndex:
    """The index of a training image, and the seed of its augmentation, which is combined with the index."""

    index: int
    seed: tuple[int, ...]


class TrainingSampler(DistributedSampler[SeededIndex]):
    """Samples each image once per epoch in random order, with a seed. Each iteration is the next epoch.

    A step has the same images for every division. Images of an epoch that do not fill a whole step are dropped, because
    Lightning would otherwise take a step with an incomplete gradient.

    It is a ``DistributedSampler`` even for a single process, so that Lightning sets its epoch and never replaces it.

    Args:
        dataset: The dataset to sample.
        division: Division of the images of a step.
        rank: Rank of this process.
        seed: Seed of the run.

    Attributes:
        epoch: The epoch of the next iteration.
        start: Number of images of this process that the next iteration skips.
    """

    def __init__(self, dataset: Sized, division: Division, rank: int, seed: int) -> None:
        super().__init__(cast(Dataset[SeededIndex], dataset), division.processes, rank, seed=seed, drop_last=True)
        self.division = division
        self.images = len(dataset)
        self.total_size = self.images // division.images * division.images
        self.num_samples = self.total_size // division.processes
        self.start = 0

    def __iter__(self) -> Iterator[SeededIndex]:
        seed = (self.seed, self.epoch)
        shard = np.random.default_rng(seed).permutation(self.images)[: self.total_size][self.rank :: self.num_replicas]
        draws = [SeededIndex(int(index), seed) for index in shard[self.start :]]
        self.epoch, self.start = self.epoch + 1, 0
        return iter(draws)


class EvaluationSampler(DistributedSampler[int]):
    """Samples each image once, in order, over all processes. No image is repeated to give all processes the same number.

    Args:
        dataset: The dataset to sample.
        num_replicas: Number of processes.
        rank: Rank of this process.
        every_process: Whether each process needs an image, because the processes synchronise their metrics.

    Raises:
        ValueError: If ``every_process`` is set and there are more processes than images.
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int, every_process: bool = True) -> None:
        super().__init__(cast(Dataset[int], dataset), num_replicas, rank, shuffle=False)
        if every_process and len(dataset) < num_replicas:
            raise ValueError(f"expected at least one image for each process, got {len(dataset)} for {num_replicas}")
        self.shard = range(rank, len(dataset), num_replicas)

    def __iter__(self) -> Iterator[int]:
        return iter(self.shard)

    def __len__(self) -> int:
        return len(self.shard)
