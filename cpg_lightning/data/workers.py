"""Number and initialisation of the worker processes that load images."""

import os
import signal
from collections.abc import Sequence

import cv2
import lightning as L

from cpg_lightning.cores import available_cores

MOST_WORKERS = 8


def default_workers(processes: int) -> int:
    """Return the default number of worker processes of a loader: the cores per training process, 1 to 8.

    Args:
        processes: Number of training processes that share the cores of this machine.
    """
    return max(1, min(available_cores() // processes, MOST_WORKERS))


def local_processes(trainer: L.Trainer | None) -> int:
    """Return the number of training processes on this machine, from torchrun's environment variable or the Trainer."""
    local = os.environ.get("LOCAL_WORLD_SIZE")
    if local is not None:
        return int(local)
    return 1 if trainer is None else trainer.num_devices


def init_worker(worker_id: int, ignored_signals: Sequence[int] = ()) -> None:
    """Limit a worker to one core, because several workers run in parallel, and ignore some signals.

    Args:
        worker_id: Number of the worker.
        ignored_signals: Signals for the training process only. The training process ends its workers itself.
    """
    cv2.setNumThreads(0)
    for number in ignored_signals:
        signal.signal(number, signal.SIG_IGN)
