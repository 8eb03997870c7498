"""Which process sees which image, and with which random numbers."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from cpg_lightning.data.steps import Division


@dataclass(frozen=True)
class SeededIndex:
    """One training sample: which image, and what its random numbers are seeded with besides the index."""

    index: int
    seed: tuple[int, ...]


class TrainingSampler(DistributedSampler[SeededIndex]):
    """Every image once an epoch, shuffled, each with its seed; each iteration is the next epoch.

    A step has the same images however it is divided. The images of an epoch that do not fill a whole step are dropped:
    Lightning would take a step with a part of its gradient.

    It is a ``DistributedSampler`` for one process too, so that Lightning tells it the epoch and never replaces it.

    Args:
        dataset: What is sampled.
        division: How the images of a step are divided.
        rank: Which process this is.
        seed: Seed of the run.

    Attributes:
        epoch: The epoch of the next iteration.
        start: How many images of this process's shard the next iteration leaves out.
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
    """Every image once, in order, over all processes together: none is repeated to make the shards even.

    Args:
        dataset: What is sampled.
        num_replicas: Number of processes.
        rank: Which process this is.
        every_process: Whether each process must have an image, as it must where they count together.

    Raises:
        ValueError: If there are more processes than images, and each must have one.
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
