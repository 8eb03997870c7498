"""Record of the predicted images, in files beside the predictions."""

import csv
import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TextIO, cast

import torch
from torch import Tensor

SUFFIXES = {"palette": ".png", "labels": ".png", "overlay": ".png", "probabilities": ".npz"}  # file suffix of each kind


class Entry(NamedTuple):
    """A line of the record, added before the first file of an image (``begun``) or after the last file (``done``)."""

    time: float
    state: str
    settings: str
    identity: str
    name: str


class PredictionRecord:
    """Records the predictions in a folder, so that a second run skips the images that are done.

    An image is done if its last prediction has the same name, image file and settings, and all its files exist. Each
    process appends to its own file, ``predicted-<rank>.csv``.

    Args:
        folder: Folder of the predictions, with one subfolder per kind.
        settings: Digest of everything but the image that determines a prediction.
        kinds: Kinds of predictions to write: some of ``palette``, ``labels``, ``overlay``, ``probabilities``.
        overwrite: Whether to predict all images again, and to overwrite files that are not in the record.

    Attributes:
        left_out: Number of images that were done, after :meth:`remaining`.
    """

    def __init__(self, folder: str | Path, settings: str, kinds: Iterable[str], overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self.settings = settings
        self.kinds = list(kinds)
        self.overwrite = overwrite
        self.left_out = 0
        self.identities: dict[str, str] = {}

    def without_predictions(self, images: Iterable[Path]) -> list[Path]:
        """Return the images that are not themselves earlier predictions in this folder."""
        entries = self._entries()
        return [path for path in images if not self._is_prediction(path, entries)]

    def remaining(self, images: Iterable[tuple[str, str, Path]]) -> list[Path]:
        """Return the images that are not done.

        Args:
            images: Name, identity (see :func:`identity_of`) and path of each image.

        Raises:
            ValueError: If a prediction would overwrite a file that is not in the record.
        """
        entries = self._entries()
        remaining = []
        for name, identity, path in images:
            entry = entries.get(name)
            done = entry is not None and entry[1:4] == ("done", self.settings, identity)
            if done and not self.overwrite and all(self.path(kind, name).is_file() for kind in self.kinds):
                self.left_out += 1
                continue
            if entry is None and not self.overwrite:
                self._check_free(name)
            self.identities[name] = identity
            remaining.append(path)
        return remaining

    def path(self, kind: str, name: str) -> Path:
        """The file of a prediction."""
        return self.folder / kind / f"{name}{SUFFIXES[kind]}"

    def add(self, name: str, state: Literal["begun", "done"], rank: int = 0) -> None:
        """Record that the files of an image will be written now (``begun``), or are all written (``done``)."""
        if name in self.identities:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _opened(self.folder / f"predicted-{rank}.csv", "a") as file:
                csv.writer(file).writerow([time.time(), state, self.settings, self.identities[name], name])

    def _entries(self) -> dict[str, Entry]:
        """The last entry of each name. Incomplete lines are left out."""
        last: dict[str, Entry] = {}
        for path in sorted(self.folder.glob("predicted-*.csv")):
            with _opened(path, "r") as file:
                rows = csv.reader(line.replace("\0", "") for line in file)
                while True:
                    try:
                        row = next(rows)
                        entry = Entry(float(row[0]), *row[1:])
                    except StopIteration:
                        break
                    except (csv.Error, IndexError, TypeError, ValueError):
                        continue
                    if entry.name not in last or last[entry.name].time <= entry.time:
                        last[entry.name] = entry
        return last

    def _is_prediction(self, path: Path, entries: dict[str, Entry]) -> bool:
        """Whether an image is an earlier prediction in this folder."""
        path = Path(os.path.abspath(path))
        for kind in SUFFIXES:
            place = Path(os.path.abspath(self.folder / kind))
            if path.is_relative_to(place) and path.relative_to(place).with_suffix("").as_posix() in entries:
                return True
        return False

    def _check_free(self, name: str) -> None:
        taken = next((path for path in (self.path(kind, name) for kind in self.kinds) if os.path.lexists(path)), None)
        if taken is not None:
            raise ValueError(
                f"expected to overwrite only predictions of this command, got {taken}, which it did not write; choose "
                "another --output, or set --overwrite true"
            )


def _opened(path: Path, mode: str) -> TextIO:
    """Open a file of the record. Image names that are not UTF-8 are preserved."""
    return cast(TextIO, path.open(mode, newline="", encoding="utf-8", errors="surrogateescape"))


def identity_of(path: Path, stored_in: Path | None = None) -> str:
    """A digest of an image file's path, size and modification time.

    Args:
        path: The image file.
        stored_in: The zip file that contains the image; its size and time are then used.
    """
    try:
        state = (stored_in or path).stat()
    except OSError:
        return ""  # an unreadable image is never done
    described = f"{os.path.abspath(path)} {state.st_size} {state.st_mtime_ns}"
    return hashlib.sha256(os.fsencode(described)).hexdigest()[:32]


def file_digest(path: str | Path) -> str:
    """The SHA-256 digest of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 digest of weights and their names."""
    digest = hashlib.sha256()
    for name, weight in weights.items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
