"""A lock file that prevents two studies from running the same cell."""

import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


class Lock:
    """The lock of a folder, held until it is released or the last process with ``file`` open has ended.

    Args:
        path: The lock file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.file: IO[str] = path.open("a+", encoding="utf-8")
        self.works = True  # whether the file system supports locks

    def acquire(self) -> bool:
        """Take the lock. Returns False if another process holds it."""
        for _ in range(2):  # `--list` in another process holds the lock for an instant
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    raise
                self.works = False
                return True
            else:
                self.name_owner(os.getpid())
                return True
        self.file.close()
        return False

    def name_owner(self, process: int) -> None:
        """Write the host and the number of the process that runs the cell into the lock file."""
        self.file.seek(0)
        self.file.truncate()
        self.file.write(f"{socket.gethostname()} {process}\n")
        self.file.flush()

    def release(self) -> None:
        """Release the lock."""
        self.file.seek(0)
        self.file.truncate()
        if self.works:
            fcntl.flock(self.file, fcntl.LOCK_UN)  # also for the run's processes, which have the file open
        self.file.close()


def lock_owner(path: Path) -> str | None:
    """Host and process that hold a lock file; None if it is free."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                host, _, process = file.read(200).strip().partition(" ")
                return "".join(each for each in f"{host}, process {process}" if each.isprintable())
            except OSError:
                return None
    except OSError:
        return None
    return None
