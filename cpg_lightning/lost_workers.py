"""What the loss of a process that loads images means, and what to do about it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")  # how torch says it


@contextmanager
def named_workers() -> Iterator[None]:
    """Run a Trainer, with one message where the system ends a process that loads images.

    Raises:
        ChildProcessError: Then.
    """
    try:
        yield
    except RuntimeError as error:
        lost = LOST.search(str(error))
        if lost is None:
            raise
        raise ChildProcessError(
            f"expected the processes that load images to run as long as the Trainer, got the end of process {lost[1]} by the "
            f"system, most often for want of memory (torch: {str(error).strip().splitlines()[0]}). Take fewer of them "
            "(--data.num_workers), or give more memory, in a container shared memory too (--shm-size). Checkpoints that were "
            "written before are whole"
        ) from error
