"""Finding the files of a dataset, in folders or in the zip files that its owners publish."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

LOCAL_HEADER = struct.Struct("<26x2H")  # of a zip file's entry: the lengths of its name and extra field
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class Archive:
    """A zip file that any number of processes and threads read from: nothing is shared but where its entries are.

    Args:
        path: The zip file.

    Raises:
        ValueError: If it cannot be read, is encrypted, or compressed by other means than deflate.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, tuple[int, int, int, int]] = {}  # offset, compressed size, method, checksum
        try:
            with zipfile.ZipFile(path) as file:
                entries = file.infolist()
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"expected a readable zip file, got {error}: {path}; download it again") from error
        for entry in entries:
            if entry.is_dir() or "__MACOSX" in entry.filename:
                continue
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    f"expected a zip file without a password, stored or deflated, got another (method "
                    f"{entry.compress_type}): {path}; pack it again"
                )
            self.entries[entry.filename] = (entry.header_offset, entry.compress_size, entry.compress_type, entry.CRC)

    def __reduce__(self) -> tuple[Any, ...]:
        return Archive, (self.path,)  # a spawned process reads the index itself: quicker than sending it

    def read(self, name: str) -> bytes:
        """The content of an entry.

        Raises:
            ValueError: If it is damaged.
        """
        offset, size, method, checksum = self.entries[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            header = file.read(LOCAL_HEADER.size)
            if len(header) == LOCAL_HEADER.size:
                file.seek(sum(LOCAL_HEADER.unpack(header)), os.SEEK_CUR)  # its name and extra field
            content = file.read(size)
        try:
            content = zlib.decompress(content, -zlib.MAX_WBITS) if method == zipfile.ZIP_DEFLATED else content
        except zlib.error:
            content = b""
        if zlib.crc32(content) != checksum:
            raise ValueError(f"expected a readable file in the zip file, got one that is damaged: {self.path}/{name}")
        return content


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
        self.zips: dict[Path, Archive] = {}
        self.zipped: dict[Path, tuple[Archive, str]] = {}

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
            if not found:
                raise FileNotFoundError(self._missing(folder))
        return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts))

    def named(self, folder: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
        """The files below a folder that end in one of some suffixes, by their path below it without the suffix.

        Raises:
            FileNotFoundError: See :meth:`below`.
            ValueError: See :meth:`below`, and if two files have the same name.
        """
        found: dict[str, Path] = {}
        for path in self.below(folder):
            suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix.lower())), None)
            if suffix is None:
                continue
            name = path.relative_to(self.root / folder).as_posix()[: -len(suffix)]
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
        names = self.lines(name)
        missing = [each for each in names if each not in images]
        if missing:
            raise ValueError(
                f"expected an image in {self.root / image_folder} for each of the {len(names)} names in {self.root / name}, "
                f"got none for {len(missing)}, e.g. {missing[0]!r}; names are without a suffix"
            )
        return {each: images[each] for each in names}

    def lines(self, name: str) -> list[str]:
        """The lines of a text file below the root, in UTF-8, without those that are empty.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If it cannot be read, or has none.
        """
        path = self.root / name
        if not path.is_file() and path not in self.below(str(PurePosixPath(name).parent)):
            raise FileNotFoundError(f"expected the list {path}, {nearest(path)}. Expected layout:\n{self.layout}")
        try:
            lines = [line.strip() for line in self.read(path).decode("utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"expected a list in UTF-8, got another encoding: {path}; save it anew") from error
        if not lines:
            raise ValueError(f"expected a name a line, got an empty list: {path}")
        return lines

    def _missing(self, folder: str) -> str:
        """That a folder is neither there nor in a zip file."""
        of_it = {
            name: inside
            for name, (inside, there) in self.archives.items()
            if PurePosixPath(folder).is_relative_to(there)
        }
        opened = [archive for archive, _, there in self._present() if (self.root / folder).is_relative_to(there)]
        if opened:
            top = sorted({PurePosixPath(name).parts[0] for name in opened[0].entries})[:8]
            inside = of_it.get(opened[0].path.name, "")
            wanted = f"{inside}/ in it" if inside else f"{folder} in it"
            return f"expected {opened[0].path} to have {wanted}, got {', '.join(top) or 'nothing'}; is it the official file?"
        or_zip = f" or {next(iter(of_it))} with it" if of_it else ""
        return (
            f"expected the folder {self.root / folder}{or_zip}, {nearest(self.root / folder)}; set the root to the folder "
            f"that holds it. Expected layout:\n{self.layout}"
        )

    def _entries(self, folder: Path) -> dict[Path, tuple[Archive, str]]:
        """The entries of zip files that unpacked would be below a folder, by the path they would have."""
        found = {}
        for archive, inside, there in self._present():
            start = PurePosixPath(inside)
            for name in archive.entries:
                entry = PurePosixPath(name)
                if entry.is_relative_to(start):
                    path = there / entry.relative_to(start)
                    if path.is_relative_to(folder):
                        found[path] = archive, name
        return found

    def _present(self) -> Iterable[tuple[Archive, str, Path]]:
        """Each official zip file that is there, the folder in it, and the folder that this stands for."""
        for name, (inside, below) in self.archives.items():
            places = [self.root] if self.root.is_file() and (self.root.name == name or len(self.archives) == 1) else []
            unpacked = self.root / below
            places += [self.root / name, unpacked / name, unpacked.parent / name, self.root.parent / name]
            place = next((place for place in places if place.is_file()), None)
            if place is not None:
                if place not in self.zips:
                    self.zips[place] = Archive(place)
                yield self.zips[place], inside, self.root / below


def images_at(place: Path) -> list[Path]:
    """The images of a folder, at any depth, an image, or the images that a text file lists, a path a line.

    Raises:
        FileNotFoundError: If there is nothing there, or a listed file is not.
        ValueError: If there are no images.
    """
    if place.suffix.lower() == ".txt" and place.is_file():
        paths = [Path(line.strip()) for line in place.read_text("utf-8-sig").splitlines() if line.strip()]
    elif place.is_dir():
        paths = sorted(path for path in FileTree(place, "").below(".") if path.suffix.lower() in IMAGE_SUFFIXES)
    else:
        paths = [place]
    paths = [Path(os.path.abspath(path)) for path in paths]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"expected images to predict, got no file {missing[0]}, {nearest(missing[0])}")
    if not paths:
        raise ValueError(f"expected images ({', '.join(IMAGE_SUFFIXES)}) to predict in {place}, got none")
    return paths


def names_below(folder: Path) -> set[str]:
    """The files below a folder by their path without the suffix, hidden ones left out; none if it is not there."""
    if not folder.is_dir():
        return set()
    return {path.relative_to(folder).with_suffix("").as_posix() for path in FileTree(folder, "").below(".")}


def nearest(folder: Path) -> str:
    """What there is instead of a missing folder."""
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    if not parent.is_dir():
        return f"got a file in its way: {parent}"
    names = sorted(path.name for path in parent.iterdir())
    found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"got {parent} with {found or 'nothing'} in it"
