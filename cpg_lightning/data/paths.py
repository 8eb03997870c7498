"""Paths: suffixes of images, walking folders, normalising names, and expanding paths from the user."""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".avif"),
)
# Suffixes of images that are not supported. A note mentions such files.
OTHER_SUFFIXES = (
    *(".heic", ".heif", ".jxl", ".svg", ".psd", ".tga", ".exr", ".hdr", ".ico", ".pcx", ".eps", ".pdf", ".npy", ".npz"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".mp4", ".mov", ".avi"),
)


def walk_files(folder: Path, suffixes: tuple[str, ...] = ()) -> Iterator[Path]:
    """All files below a folder, and the folders whose names end in one of ``suffixes``, which are not entered.

    Links to folders are followed. Each folder is entered once, by its own path rather than by a link. The parents of
    the first folder are never entered.

    Raises:
        ValueError: If a folder cannot be read.
    """
    start = os.path.realpath(folder)
    entered = {start, *(str(parent) for parent in Path(start).parents)}
    starts = [folder]
    while starts:
        links: list[Path] = []
        for parent, folders, names in os.walk(starts.pop(0), onerror=_refused):
            yield from (Path(parent, name) for name in names)
            for name in sorted(folders):
                path = Path(parent, name)
                target = os.path.realpath(path)
                if suffixes and name.lower().endswith(suffixes):
                    yield path
                    folders.remove(name)
                elif path.is_symlink():
                    links.append(path)
                elif target in entered:
                    folders.remove(name)
                else:
                    entered.add(target)
        for link in links:
            target = os.path.realpath(link)
            if target not in entered:
                entered.add(target)
                starts.append(link)


def _refused(error: OSError) -> None:
    """Raise an error for a folder that cannot be listed; ``os.walk`` would skip it."""
    raise ValueError(f"expected a folder that can be read, got {error.strerror}: {error.filename}") from error


def normalize_name(name: str) -> str:
    """The name with composed characters. Some systems write an ö as an o and two dots."""
    return unicodedata.normalize("NFC", name)


def expanded(path: str | Path) -> Path:
    """A path with ``~`` and environment variables expanded, as in a shell.

    Raises:
        ValueError: If a variable is not set, or the path is empty, as from a variable that is not set in the shell.
    """
    if not str(path).strip():
        raise ValueError(f"expected a path, got {str(path)!r}; use . for the current folder")
    filled = os.path.expanduser(os.path.expandvars(str(path)))
    unset = re.findall(r"\$\{?(\w+)", filled)
    if unset and not os.path.lexists(filled):
        raise ValueError(f"expected the environment variable {unset[0]} of the path {path} to be set, got none")
    return Path(filled)


def lines_of(content: bytes, path: Path) -> list[str]:
    """The non-empty lines of a list in UTF-8.

    Raises:
        ValueError: If the list is empty or in another encoding.
    """
    try:
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"expected a list in UTF-8, got another encoding: {path}; save it again") from error
    if not lines or any("\0" in line for line in lines):
        raise ValueError(f"expected one name per line, got {'no text' if lines else 'an empty list'}: {path}")
    return lines


def describe_missing(folder: Path) -> str:
    """Describe the nearest existing parent of a missing folder, as part of an error message."""
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    if not parent.is_dir():
        return f"got a file instead of a folder: {parent}"
    names = sorted(path.name for path in parent.iterdir())
    found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"got {parent}, which contains {found or 'nothing'}"
