"""Atomic writing of checkpoints: neither a kill nor a full disk loses the previous checkpoint."""

import contextlib
import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import TorchCheckpointIO

PARTIAL = ".checkpoint.partial"  # name of the temporary file
CHUNK = 2**24  # bytes per write
MEGABYTE = 1e6
NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP)  # errors of file systems that cannot synchronise a folder


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint file only after the new file is completely on the disk.

    Lightning writes to the system's temporary folder and moves the file from there. Between two file systems, this is a
    copy over the previous checkpoint, and a kill or a full disk loses both. Here the temporary file is in the
    checkpoint's folder. It is flushed to the disk and then renamed atomically.

    Lightning writes checkpoints with a URL such as ``s3://...``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: The checkpoint, as for ``torch.save``.
            path: The file. Its folder is created if needed.
            storage_options: None; Lightning refuses other values.

        Raises:
            OSError: If the disk is full or the file cannot be written. The previous file is then unchanged.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        # As in Lightning, it is first saved in memory. The size is then known, and disk errors are Python's OSErrors.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        # The name is always the same, so that a file that a kill left behind is overwritten. It is not that of the
        # checkpoint: Lightning would take a part of hpc_ckpt_1.ckpt for the whole.
        partial = path.with_name(PARTIAL)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._open(partial) as file:
                _write(file, content.getbuffer())
                os.fsync(file.fileno())
            partial.replace(path)
            _synchronise(path.parent)
        except OSError as error:
            _remove(partial)
            raise OSError(error.errno, _message(error, path, content.tell())) from error
        except BaseException:
            _remove(partial)
            raise

    def _open(self, path: Path) -> BinaryIO:
        # Without a buffer, a full disk raises an error in write, never in close.
        return path.open("wb", buffering=0)


def _write(file: BinaryIO, content: memoryview) -> None:
    while content:
        content = content[file.write(content[:CHUNK]) :]  # an almost full disk accepts a part


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # for example a missing folder; the first error is the one to report
        path.unlink()


def _synchronise(folder: Path) -> None:
    """Flush the folder's entries, which include the new name, to the disk."""
    if os.name == "nt":
        return  # Windows cannot open folders
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(number)


def _message(error: OSError, path: Path, needed: int) -> str:
    try:
        free = f"{shutil.disk_usage(path.parent).free / MEGABYTE:.1f} MB are free"
    except OSError:
        free = "its free space is unknown"
    return (
        f"expected to write the checkpoint {path.name} in {path.parent.absolute()}, which needs {needed / MEGABYTE:.1f} MB; "
        f"{free}, got: {error.strerror or error}. A previous file of this name is unchanged. Make room, or "
        "choose a folder on another disk"
    )
