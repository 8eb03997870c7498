"""How many processes load images."""

from cpg_lightning.cores import available_cores

MOST_WORKERS = 8


def default_workers(processes: int) -> int:
    """The number of worker processes of a loader: the cores of one training process, 1 to 8.

    Args:
        processes: Training processes on this machine that share its cores.
    """
    return max(1, min(available_cores() // processes, MOST_WORKERS))
