"""Reading files from folders and zip files in bounded memory."""

import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from cpg_lightning.data.decoding import unreadable

LOCAL_HEADER = struct.Struct("<26x2H")  # header of a zip entry: lengths of its name and extra field
BYTES_A_PIXEL, BESIDES = 4, 1 << 24  # uncompressed RGB with alpha, and an allowance for other content


class Archive:
    """A zip file for any number of reading processes and threads, which share only the index of its entries.

    Args:
        path: The zip file.

    Raises:
        ValueError: If the file cannot be read, is encrypted, or uses another compression than deflate.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # By name of the entry: offset, compressed size, size, method, checksum.
        self.entries: dict[str, tuple[int, int, int, int, int]] = {}
        try:
            with zipfile.ZipFile(path) as file:
                if not all(entry.filename for entry in file.infolist()):
                    raise ValueError("a file without a name")
                entries = [entry for entry in file.infolist() if not entry.is_dir()]
        except (LookupError, NotImplementedError, OSError, ValueError, struct.error, zipfile.BadZipFile) as error:
            raise ValueError(f"expected a readable zip file, got {error}: {path}; download it again") from error
        for entry in entries:
            if "__MACOSX" in entry.filename:
                continue
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    f"expected a zip file without a password, stored or deflated, got another (method "
                    f"{entry.compress_type}): {path}; pack it again"
                )
            place = (entry.header_offset, entry.compress_size, entry.file_size)
            self.entries[entry.filename] = (*place, entry.compress_type, entry.CRC)

    def __reduce__(self) -> tuple[Any, ...]:
        return Archive, (self.path,)  # a spawned process reads the index itself, which is faster than sending it

    def read(self, name: str, max_pixels: int) -> bytes:
        """The content of an entry. It is never inflated beyond the size in the index.

        Raises:
            ValueError: If the entry is damaged, or larger than any image of ``max_pixels``.
        """
        offset, compressed, size, method, checksum = self.entries[name]
        place = f"{self.path}/{name}"
        check_bytes(max(compressed, size), place, max_pixels)
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                header = file.read(LOCAL_HEADER.size)
                if len(header) == LOCAL_HEADER.size:
                    file.seek(sum(LOCAL_HEADER.unpack(header)), os.SEEK_CUR)  # skip name and extra field
                content = file.read(compressed)
            if method == zipfile.ZIP_DEFLATED:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
        except (OSError, ValueError, zlib.error) as error:  # the first two: an invalid offset
            raise ValueError(f"expected a readable file in the zip file, got {error}: {place}") from error
        if len(content) != size or zlib.crc32(content) != checksum:
            raise ValueError(f"expected a readable file in the zip file, got one that is damaged: {place}")
        return content


def bytes_of(path: Path, max_pixels: int) -> bytes:
    """The content of a file.

    Raises:
        ValueError: If the path is missing or not a file, or the file is larger than any image of ``max_pixels``.
    """
    try:
        status = path.stat()
    except OSError as error:
        reason = "a broken link" if path.is_symlink() else error.strerror or str(error)
        raise unreadable(reason, path) from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise unreadable("a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device", path)
    check_bytes(status.st_size, str(path), max_pixels)
    return path.read_bytes()


def check_bytes(size: int, place: str, max_pixels: int) -> None:
    """Check the size of a file.

    Raises:
        ValueError: If the file is larger than any image of ``max_pixels``.
    """
    most = BYTES_A_PIXEL * max_pixels + BESIDES
    if size > most:
        raise ValueError(
            f"expected a file of at most {most} bytes, {BYTES_A_PIXEL} for each of max_pixels={max_pixels}, got {size}: "
            f"{place}; remove it, or set a larger max_pixels"
        )
