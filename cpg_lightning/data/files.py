"""Finding the files of a dataset, in folders or in its official zip files."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from cpg_lightning.data.archive import Archive, bytes_of
from cpg_lightning.data.decoding import MOST_PIXELS
from cpg_lightning.data.paths import (
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    describe_missing,
    lines_of,
    normalize_name,
    walk_files,
)


class FileTree:
    """The files of a dataset below its root, unpacked or in zip files.

    Every path is the path of the unpacked file. If its folder is missing, the file is read from a zip file beside the
    root, in the root, or from the root itself. Forked and spawned worker processes may read files.

    Args:
        root: Folder of the dataset or of its zip files, or a zip file.
        layout: The dataset's folders as a tree, for error messages.
        archives: For each name of an official zip file, a folder in it, and the folder below the root that it replaces.
        max_pixels: Largest number of pixels of an image; larger files are not read.

    Attributes:
        problems: List that collects problems with the files; None if problems are raised.
        notes: Remarks about files that are not problems.
        other_files: For each folder, the files in it that were not requested.
        with_labels: Whether to search for labels. Images for prediction need none.
    """

    def __init__(
        self,
        root: str | Path,
        layout: str,
        archives: Mapping[str, tuple[str, str]] | None = None,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        self.root = Path(root)
        self.layout = layout
        self.archives = archives or {}
        self.max_pixels = max_pixels
        self.problems: list[str] | None = None
        self.notes: list[str] = []
        self.other_files: dict[Path, list[Path]] = {}
        self.with_labels = True
        self.zips: dict[Path, Archive] = {}
        self.zipped: dict[Path, tuple[Archive, str]] = {}

    @contextmanager
    def without_labels(self) -> Iterator[None]:
        """Context in which no labels are searched for."""
        self.with_labels = False
        try:
            yield
        finally:
            self.with_labels = True

    def wrong(self, message: str) -> None:
        """Raise an error for a problem with the files, or append the problem to ``problems``.

        Raises:
            ValueError: If ``problems`` is None.
        """
        if self.problems is None:
            raise ValueError(message)
        self.problems.append(message)

    def list_files(self, folder: str, suffixes: Collection[str] = ()) -> list[Path]:
        """List all files below a folder of the root, at any depth, sorted. Hidden files are excluded.

        A folder whose name ends in one of ``suffixes`` is listed as a file, which then cannot be read.

        Raises:
            FileNotFoundError: If neither the folder nor a zip file with it exists.
            ValueError: If a zip file cannot be read.
        """
        path = self.root / folder
        if path.is_dir():
            found = list(walk_files(path, tuple(suffixes)))
        else:
            entries = self._entries(path)
            self.zipped |= entries
            found = list(entries)
            if not found:
                raise FileNotFoundError(self._missing(folder))
        return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts))

    def files_by_name(
        self, folder: str, suffixes: Sequence[str], prefix: str = "", exclude: Collection[Path] = ()
    ) -> dict[str, Path]:
        """The files below a folder whose path starts with a prefix and ends in one of several suffixes, by name.

        The name is the part of the path between prefix and suffix. Its characters are composed (Unicode's NFC), because
        some systems decompose them.

        Args:
            folder: The folder, below the root.
            suffixes: Suffixes of the files; upper and lower case are equal.
            prefix: Prefix of the path below the folder.
            exclude: Files to exclude.

        Raises:
            FileNotFoundError: See :meth:`list_files`.
            ValueError: See :meth:`list_files`, and if two files have the same name.
        """
        found: dict[str, Path] = {}
        others = self.other_files[self.root / folder] = []
        for path in self.list_files(folder, suffixes):
            inside = path.relative_to(self.root / folder).as_posix()
            suffix = next((suffix for suffix in suffixes if inside.lower().endswith(suffix.lower())), None)
            if path in exclude:
                continue
            if suffix is None or not inside.startswith(prefix):
                others.append(path)
                continue
            name = normalize_name(inside[len(prefix) : -len(suffix)])
            if name in found:
                self.wrong(f"expected one file per name, got both {found[name]} and {path}; remove one")
            found.setdefault(name, path)
        if tuple(suffixes) == IMAGE_SUFFIXES:
            strays = [path for path in others if path.suffix.lower() in OTHER_SUFFIXES]
            kinds = Counter(path.suffix.lower() for path in strays)
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            if strays:
                self.notes.append(
                    f"not read in {self.root / folder}: {counts}, e.g. {strays[0]}; convert the files that you want to use"
                )
        return found

    def labels(self, folder: str, suffixes: Sequence[str]) -> dict[str, Path]:
        """The label files below a folder by name, see :meth:`files_by_name`; none if ``with_labels`` is false."""
        return self.files_by_name(folder, suffixes) if self.with_labels else {}

    def stored_in(self, path: Path) -> Path | None:
        """The zip file that contains a file; None for a file on disk."""
        return self.zipped[path][0].path if path in self.zipped else None

    def read(self, path: Path) -> bytes:
        """The content of a file.

        Raises:
            ValueError: If the file is missing, not a file or too large, or if its zip file or its entry cannot be read.
        """
        if path not in self.zipped:
            return bytes_of(path, self.max_pixels)
        archive, name = self.zipped[path]
        return archive.read(name, self.max_pixels)

    def pair_files(
        self,
        images: Mapping[str, Path],
        labels: Mapping[str, Path],
        image_folder: str,
        label_folder: str,
        names: Iterable[str] | None = None,
        looked_for: str = "",
    ) -> list[tuple[Path, Path | None]]:
        """Pairs of an image and the label of the same name, sorted by name; without labels if ``with_labels`` is false.

        Args:
            images: Images by name.
            labels: Labels by name.
            image_folder: Folder of the images, for messages.
            label_folder: Folder of the labels, for messages.
            names: Names to use, possibly repeated; by default each image once.
            looked_for: Pattern of the labels' paths, for messages.

        Raises:
            ValueError: If there are no images, images without labels, or labels without images.
        """
        names = list(images if names is None else names)
        unpaired = self.unpaired(images, image_folder, names)
        if not self.with_labels:
            return unpaired
        places = self.root / image_folder, self.root / label_folder
        for here, there, place, other in ((images, labels, *places), (labels, images, *places[::-1])):
            alone = sorted(here.keys() - there.keys())
            if alone:
                pattern = f"; the pattern of the labels is {looked_for}" if looked_for and here is images else ""
                self.wrong(
                    f"expected a partner in {other} for each of the {len(here)} files in {place}, "
                    f"got none for {len(alone)}, e.g. {', '.join(str(here[name]) for name in alone[:3])}"
                    f"{pattern}{self._instead(other, alone)}. Expected layout:\n{self.layout}"
                )
        return [(images[name], labels[name]) for name in sorted(names) if name in images and name in labels]

    def unpaired(
        self, images: Mapping[str, Path], image_folder: str, names: Iterable[str] | None = None
    ) -> list[tuple[Path, Path | None]]:
        """Images without labels, sorted by name, repeated as in ``names``.

        Raises:
            ValueError: If there are no images.
        """
        if not images:
            self.wrong(f"expected images in {self.root / image_folder}, got none. Expected layout:\n{self.layout}")
        return [(images[name], None) for name in sorted(images if names is None else names) if name in images]

    def read_list(self, name: str, images: Mapping[str, Path], image_folder: str, repeated: bool = False) -> list[str]:
        """The names of images in a text file, one per line.

        Args:
            name: The text file, below the root.
            images: Images by name.
            image_folder: Folder of the images, for messages.
            repeated: Whether a name may occur several times. Each occurrence is then a sample.

        Raises:
            FileNotFoundError: If the text file does not exist.
            ValueError: If an image does not exist, or a name is repeated and must not be.
        """
        names = self.lines(name)
        missing = [each for each in dict.fromkeys(names) if each not in images]
        if missing:
            self.wrong(
                f"expected an image in {self.root / image_folder} for each of the {len(set(names))} names in "
                f"{self.root / name}, got none for {len(missing)}, e.g. {missing[0]!r}; names are without a suffix"
            )
        twice = [each for each, count in Counter(names).items() if count > 1]
        if twice and not repeated:
            self.wrong(
                f"expected each name once in {self.root / name}, because an evaluation counts each image once, got {len(twice)} "
                f"more than once, e.g. {twice[0]}"
            )
        return [each for each in (names if repeated else dict.fromkeys(names)) if each in images]

    def lines(self, name: str) -> list[str]:
        """Read the non-empty lines of a text file in UTF-8 below the root.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file cannot be read, or has no lines.
        """
        path = self.root / name
        if not path.is_file() and path not in self.list_files(str(PurePosixPath(name).parent)):
            missing = describe_missing(path)
            raise FileNotFoundError(f"expected the list {path}, {missing}. Expected layout:\n{self.layout}")
        return [normalize_name(line) for line in lines_of(self.read(path), path)]

    def _instead(self, folder: Path, names: Sequence[str]) -> str:
        """End of an error message that names a file of the right name with a wrong suffix; empty if there is none."""
        wanted = set(names)
        for path in self.other_files.get(folder, []):
            if normalize_name(path.relative_to(folder).with_suffix("").as_posix()) in wanted:
                jpeg = path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")
                reason = "is a JPEG, which changes label values: export PNG" if jpeg else "is of another kind"
                return f"; {path} {reason}"
        return ""

    def _missing(self, folder: str) -> str:
        """The error message for a folder that exists neither on disk nor in a zip file."""
        of_it = {
            name: inside
            for name, (inside, there) in self.archives.items()
            if PurePosixPath(folder).is_relative_to(there)
        }
        opened = [archive for archive, _, there in self._present() if (self.root / folder).is_relative_to(there)]
        if opened:
            top = sorted({PurePosixPath(name).parts[0] for name in opened[0].entries})[:8]
            inside = of_it.get(opened[0].path.name, "")
            wanted = f"{inside}/" if inside else folder
            return f"expected {opened[0].path} to contain {wanted}, got {', '.join(top) or 'nothing'}; is it the official file?"
        or_zip = f" or {next(iter(of_it))} with it" if of_it else ""
        return (
            f"expected the folder {self.root / folder}{or_zip}, {describe_missing(self.root / folder)}; set the root to the folder "
            f"that contains it. Expected layout:\n{self.layout}"
        )

    def _entries(self, folder: Path) -> dict[Path, tuple[Archive, str]]:
        """The entries of zip files below a folder, by the path of the unpacked file."""
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
        """Each official zip file that exists, the folder in it, and the folder that it replaces."""
        for name, (inside, below) in self.archives.items():
            places = [self.root] if self.root.is_file() and (self.root.name == name or len(self.archives) == 1) else []
            unpacked = self.root / below
            places += [self.root / name, unpacked / name, unpacked.parent / name, self.root.parent / name]
            place = next((place for place in places if place.is_file()), None)
            if place is not None:
                if place not in self.zips:
                    self.zips[place] = Archive(place)
                yield self.zips[place], inside, self.root / below
