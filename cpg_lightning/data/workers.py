"""How many processes load images, and on how many cores."""

import os

import cv2
import lightning as L

from cpg_lightning.cores import available_cores

MOST_WORKERS = 8


def default_workers(processes: int) -> int:
    """The number of worker processes of a loader: the cores of one training process, 1 to 8.

    Args:
        processes: Training processes on this machine that share its cores.
    """
    return max(1, min(available_cores() // processes, MOST_WORKERS))


def local_processes(trainer: L.Trainer | None) -> int:
    """How many training processes share this machine: torchrun says it, else the Trainer knows."""
    local = os.environ.get("LOCAL_WORLD_SIZE")
    if local is not None:
        return int(local)
    return 1 if trainer is None else trainer.num_devices


def one_thread(worker_id: int) -> None:
    """Keep a worker to one core: the workers are the parallelism."""
    cv2.setNumThreads(0)
