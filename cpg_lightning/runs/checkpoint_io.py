"""Writes checkpoints so that neither a kill nor a full disk loses the one before."""

import contextlib
import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import TorchCheckpointIO

CHUNK = 2**24  # bytes that are written at once
MEGABYTE = 1e6
NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP)  # of file systems on which a folder cannot be synchronised


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint file by a new one that is whole and on the disk, or not at all.

    Lightning writes into the system's temporary folder and moves the file from there, which between two file systems is a
    copy over the checkpoint before: a kill or a full disk then leaves none. Here the temporary file is in the checkpoint's
    own folder, is flushed to the disk, and takes the checkpoint's name in one step of the file system.

    A checkpoint at an address such as ``s3://...`` is written by Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: What ``torch.save`` takes.
            path: The file. Its folder is made.
            storage_options: None; others are refused by Lightning.

        Raises:
            OSError: If the disk is full or the file cannot be written. The file before is whole then.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        # First in memory, as Lightning does: the size is known, and errors of the disk are those of Python.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        # The same name each time, so that what a kill has left is written over.
        partial = path.with_name(f".{path.name}.partial")
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
        # Without a buffer: what does not fit on the disk is an error of a write, never of close.
        return path.open("wb", buffering=0)


def _write(file: BinaryIO, content: memoryview) -> None:
    while content:
        content = content[file.write(content[:CHUNK]) :]  # a disk that is almost full takes a part


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a folder that is gone, for one: what is said is the first error
        path.unlink()


def _synchronise(folder: Path) -> None:
    """Let the folder's entries reach the disk: the new name is one of them."""
    if os.name == "nt":
        return  # Windows opens no folders
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
        free = "it cannot be looked at"
    return (
        f"expected to write the checkpoint {path.name} in {path.parent.absolute()}, which needs {needed / MEGABYTE:.1f} MB; "
        f"{free}, got: {error.strerror or error}. The file of this name from before is whole, if there was one. Make room, or "
        "choose a folder on another disk"
    )
