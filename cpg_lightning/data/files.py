"""Finding the files of a dataset, in folders or in the zip files that its owners publish."""

import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class FileTree:
    """The files of a dataset below its root, unpacked or in zip files.

    A path is always that of the unpacked file. It is read from a zip file where the folder that it was found in is not
    there: from one beside or in the root, or from the root itself. Worker processes may read, forked or spawned.

    Args:
        root: Folder of the dataset or of its zip files, or a zip file.
        layout: The dataset's folders, drawn as a tree, for the errors.
        archives: Name of each official zip file, with a folder in it and the folder below the root that this stands for.
    """

    def __init__(self, root: str | Path, layout: str, archives: Mapping[str, tuple[str, str]] | None = None) -> None:
        self.root = Path(root)
        self.layout = layout
        self.archives = archives or {}
        self.zips: dict[Path, _Zip] = {}
        self.zipped: dict[Path, tuple[_Zip, str]] = {}

    def below(self, folder: str) -> list[Path]:
        """Every file below a folder of the root, at any depth, sorted; hidden ones are left out.

        Raises:
            FileNotFoundError: If neither the folder nor a zip file with it is there.
            ValueError: If a zip file cannot be read.
        """
        path = self.root / folder
        if path.is_dir():
            found = [Path(parent, name) for parent, _, names in os.walk(path, followlinks=True) for name in names]
        else:
            entries = self._entries(path)
            self.zipped |= entries
            found = list(entries)
        if not found and not path.is_dir():
            zips = [name for name, (_, there) in self.archives.items() if PurePosixPath(folder).is_relative_to(there)]
            with_it = f" or {zips[0]} with it" if zips else ""
            raise FileNotFoundError(
                f"expected the folder {path}{with_it}, {_nearest(path)}; set the root to the folder that holds it. "
                f"Expected layout:\n{self.layout}"
            )
        return sorted(file for file in found if not file.name.startswith("."))

    def named(self, folder: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
        """The files below a folder that end in one of some suffixes, by their name without it.

        Raises:
            FileNotFoundError: See :meth:`below`.
            ValueError: See :meth:`below`, and if two files have the same name.
        """
        found: dict[str, Path] = {}
        for path in self.below(folder):
            suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix.lower())), None)
            if suffix is None:
                continue
            name = path.name[: -len(suffix)]
            if name in found:
                raise ValueError(f"expected one file a name, got both {found[name]} and {path}; remove one")
            found[name] = path
        return found

    def read(self, path: Path) -> bytes:
        """The content of a file.

        Raises:
            ValueError: If a zip file, or what it has of the file, cannot be read.
        """
        if path not in self.zipped:
            return path.read_bytes()
        archive, name = self.zipped[path]
        return archive.read(name)

    def pairs(
        self, images: Mapping[str, Path], labels: Mapping[str, Path], image_folder: str, label_folder: str
    ) -> list[tuple[Path, Path | None]]:
        """Images and labels of the same name, sorted by it.

        Raises:
            ValueError: If there are no images, images without labels, or labels without images.
        """
        self.unpaired(images, image_folder)
        places = self.root / image_folder, self.root / label_folder
        for here, there, place, other in ((images, labels, *places), (labels, images, *places[::-1])):
            alone = sorted(here.keys() - there.keys())
            if alone:
                raise ValueError(
                    f"expected a partner in {other} for each of the {len(here)} files in {place}, "
                    f"got none for {len(alone)}, e.g. {here[alone[0]]}. Expected layout:\n{self.layout}"
                )
        return [(images[name], labels[name]) for name in sorted(images)]

    def unpaired(self, images: Mapping[str, Path], image_folder: str) -> list[tuple[Path, Path | None]]:
        """Images without labels, sorted by their name.

        Raises:
            ValueError: If there are none.
        """
        if not images:
            raise ValueError(
                f"expected images in {self.root / image_folder}, got none. Expected layout:\n{self.layout}"
            )
        return [(images[name], None) for name in sorted(images)]

    def listed(self, name: str, images: Mapping[str, Path], image_folder: str) -> dict[str, Path]:
        """Those images that a text file lists by their names, a line each.

        Args:
            name: The text file, below the root.
            images: Images by their name.
            image_folder: Where they are, for messages.

        Raises:
            FileNotFoundError: If the text file is not there.
            ValueError: If an image of it is not.
        """
        names = self._lines(name)
        missing = [each for each in names if each not in images]
        if missing:
            raise ValueError(
                f"expected an image in {self.root / image_folder} for each of the {len(names)} names in {self.root / name}, "
                f"got none for {len(missing)}, e.g. {missing[0]}"
            )
        return {each: images[each] for each in names}

    def _lines(self, name: str) -> list[str]:
        """The lines of a text file, without those that are empty."""
        path = self.root / name
        if path not in self.below(str(PurePosixPath(name).parent)):
            raise FileNotFoundError(f"expected the list {path}, {_nearest(path)}. Expected layout:\n{self.layout}")
        return [line.strip() for line in self.read(path).decode().splitlines() if line.strip()]

    def _entries(self, folder: Path) -> dict[Path, tuple["_Zip", str]]:
        """The entries of zip files that unpacked would be below a folder, by the path they would have."""
        found = {}
        for archive, inside, there in self._present():
            start = PurePosixPath(inside)
            for name in archive.names:
                entry = PurePosixPath(name)
                if entry.is_relative_to(start):
                    path = there / entry.relative_to(start)
                    if path.is_relative_to(folder):
                        found[path] = archive, name
        return found

    def _present(self) -> Iterable[tuple["_Zip", str, Path]]:
        """Each official zip file that is there, the folder in it, and the folder that this stands for."""
        for name, (inside, below) in self.archives.items():
            places = [self.root] if self.root.is_file() and (self.root.name == name or len(self.archives) == 1) else []
            places += [self.root / name, self.root / below / name, self.root.parent / name]
            place = next((place for place in places if place.is_file()), None)
            if place is not None:
                if place not in self.zips:
                    self.zips[place] = _Zip(place)
                yield self.zips[place], inside, self.root / below


class _Zip:
    """A zip file that worker processes read from too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.zip = zipfile.ZipFile(_OwnFile(path))
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"expected a readable zip file, got {error}: {path}; download it again") from error
        self.names = [name for name in self.zip.namelist() if not name.endswith("/") and "__MACOSX" not in name]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Zip, (self.path,)

    def read(self, name: str) -> bytes:
        try:
            return self.zip.read(name)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"expected a readable file in the zip file, got {error}: {self.path}/{name}") from error


class _OwnFile(io.RawIOBase):
    """A file that each process opens for itself: forked ones would share, and move, one position in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = os.getpid()
        self.file = path.open("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._own().seek(offset, whence)

    def tell(self) -> int:
        return self._own().tell()

    def readinto(self, buffer: Any) -> int | None:
        return self._own().readinto(buffer)

    def _own(self) -> io.RawIOBase:
        if self.process != os.getpid():
            self.file, self.process = self.path.open("rb", buffering=0), os.getpid()
        return self.file


def _nearest(folder: Path) -> str:
    """What there is instead of a missing folder."""
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    if not parent.is_dir():
        return f"got a file in its way: {parent}"
    names = sorted(path.name for path in parent.iterdir())
    found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"got {parent} with {found or 'nothing'} in it"
