"""Finding the files of a dataset, in folders or in the zip files that its owners publish."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from cpg_lightning.data.archive import Archive, bytes_of
from cpg_lightning.data.decoding import MOST_PIXELS
from cpg_lightning.data.paths import composed, lines_of, nearest, walked

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".avif"),
)
# Images that are not read: they are mentioned where they are passed over.
OTHER_SUFFIXES = (
    *(".heic", ".heif", ".jxl", ".svg", ".psd", ".tga", ".exr", ".hdr", ".ico", ".pcx", ".eps", ".pdf", ".npy", ".npz"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".mp4", ".mov", ".avi"),
)


class FileTree:
    """The files of a dataset below its root, unpacked or in zip files.

    A path is always that of the unpacked file. It is read from a zip file where the folder that it was found in is not
    there: from one beside or in the root, or from the root itself. Worker processes may read, forked or spawned.

    Args:
        root: Folder of the dataset or of its zip files, or a zip file.
        layout: The dataset's folders, drawn as a tree, for the errors.
        archives: Name of each official zip file, with a folder in it and the folder below the root that this stands for.
        max_pixels: Pixels of the largest image: larger files are not read.

    Attributes:
        problems: What is wrong with the files that were found, where it is collected; None where it is raised at once.
        notes: Remarks about the files that are no problems.
        passed_over: The files below each folder that are none of those that were asked for.
        with_labels: Whether labels are looked for; images that are only to be predicted need none.
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
        self.passed_over: dict[Path, list[Path]] = {}
        self.with_labels = True
        self.zips: dict[Path, Archive] = {}
        self.zipped: dict[Path, tuple[Archive, str]] = {}

    @contextmanager
    def without_labels(self) -> Iterator[None]:
        """Within it, no labels are looked for."""
        self.with_labels = False
        try:
            yield
        finally:
            self.with_labels = True

    def wrong(self, message: str) -> None:
        """Raise what is wrong with the files, or collect it.

        Raises:
            ValueError: Unless it is collected.
        """
        if self.problems is None:
            raise ValueError(message)
        self.problems.append(message)

    def below(self, folder: str, suffixes: Collection[str] = ()) -> list[Path]:
        """Every file below a folder of the root, at any depth, sorted; hidden ones are left out.

        A folder whose name ends in one of some suffixes counts as a file, which cannot be read.

        Raises:
            FileNotFoundError: If neither the folder nor a zip file with it is there.
            ValueError: If a zip file cannot be read.
        """
        path = self.root / folder
        if path.is_dir():
            found = list(walked(path, tuple(suffixes)))
        else:
            entries = self._entries(path)
            self.zipped |= entries
            found = list(entries)
            if not found:
                raise FileNotFoundError(self._missing(folder))
        return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts))

    def named(
        self, folder: str, suffixes: Sequence[str], prefix: str = "", besides: Collection[Path] = ()
    ) -> dict[str, Path]:
        """The files below a folder that begin with a prefix and end in one of some suffixes, by their name.

        The name is the path below the folder between the two, with composed characters (Unicode's NFC), as other systems
        may have decomposed them.

        Args:
            folder: The folder, below the root.
            suffixes: What files end in, in small or capital letters.
            prefix: What their path below the folder begins with.
            besides: Files that are left out.

        Raises:
            FileNotFoundError: See :meth:`below`.
            ValueError: See :meth:`below`, and if two files have the same name.
        """
        found: dict[str, Path] = {}
        others = self.passed_over[self.root / folder] = []
        for path in self.below(folder, suffixes):
            inside = path.relative_to(self.root / folder).as_posix()
            suffix = next((suffix for suffix in suffixes if inside.lower().endswith(suffix.lower())), None)
            if path in besides:
                continue
            if suffix is None or not inside.startswith(prefix):
                others.append(path)
                continue
            name = composed(inside[len(prefix) : -len(suffix)])
            if name in found:
                self.wrong(f"expected one file a name, got both {found[name]} and {path}; remove one")
            found.setdefault(name, path)
        if tuple(suffixes) == IMAGE_SUFFIXES:
            strays = [path for path in others if path.suffix.lower() in OTHER_SUFFIXES]
            kinds = Counter(path.suffix.lower() for path in strays)
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            if strays:
                self.notes.append(
                    f"not read in {self.root / folder}: {counts}, e.g. {strays[0]}; convert what you want used"
                )
        return found

    def labels(self, folder: str, suffixes: Sequence[str]) -> dict[str, Path]:
        """The label files below a folder by their name, as :meth:`named`; none where labels are not looked for."""
        return self.named(folder, suffixes) if self.with_labels else {}

    def stored_in(self, path: Path) -> Path | None:
        """The zip file that a file is read from, if it is."""
        return self.zipped[path][0].path if path in self.zipped else None

    def read(self, path: Path) -> bytes:
        """The content of a file.

        Raises:
            ValueError: If it is not there, is no file or too large, or a zip file, or what it has of it, cannot be read.
        """
        if path not in self.zipped:
            return bytes_of(path, self.max_pixels)
        archive, name = self.zipped[path]
        return archive.read(name, self.max_pixels)

    def pairs(
        self,
        images: Mapping[str, Path],
        labels: Mapping[str, Path],
        image_folder: str,
        label_folder: str,
        names: Iterable[str] | None = None,
        looked_for: str = "",
    ) -> list[tuple[Path, Path | None]]:
        """Images and labels of the same name, sorted by it; the images alone where labels are not looked for.

        Args:
            images: Images by their name.
            labels: Labels by their name.
            image_folder: Where the images are, for messages.
            label_folder: Where the labels are, for messages.
            names: Those to take, as often as they are here; each image once by default.
            looked_for: The pattern of the labels' paths, for messages.

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
                pattern = f"; labels are looked for as {looked_for}" if looked_for and here is images else ""
                self.wrong(
                    f"expected a partner in {other} for each of the {len(here)} files in {place}, "
                    f"got none for {len(alone)}, e.g. {', '.join(str(here[name]) for name in alone[:3])}"
                    f"{pattern}{self._instead(other, alone)}. Expected layout:\n{self.layout}"
                )
        return [(images[name], labels[name]) for name in sorted(names) if name in images and name in labels]

    def unpaired(
        self, images: Mapping[str, Path], image_folder: str, names: Iterable[str] | None = None
    ) -> list[tuple[Path, Path | None]]:
        """Images without labels, sorted by their name, as often as they are in ``names``.

        Raises:
            ValueError: If there are none.
        """
        if not images:
            self.wrong(f"expected images in {self.root / image_folder}, got none. Expected layout:\n{self.layout}")
        return [(images[name], None) for name in sorted(images if names is None else names) if name in images]

    def listed(self, name: str, images: Mapping[str, Path], image_folder: str, repeated: bool = False) -> list[str]:
        """The names of images that a text file lists, a line each.

        Args:
            name: The text file, below the root.
            images: Images by their name.
            image_folder: Where they are, for messages.
            repeated: Whether a name may be there more than once, to be a sample as often.

        Raises:
            FileNotFoundError: If the text file is not there.
            ValueError: If an image of it is not, or is there more than once and must not be.
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
                f"expected each name once in {self.root / name}, as an evaluation counts each image once, got {len(twice)} "
                f"more than once, e.g. {twice[0]}"
            )
        return [each for each in (names if repeated else dict.fromkeys(names)) if each in images]

    def lines(self, name: str) -> list[str]:
        """The lines of a text file below the root, in UTF-8, without those that are empty.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If it cannot be read, or has none.
        """
        path = self.root / name
        if not path.is_file() and path not in self.below(str(PurePosixPath(name).parent)):
            raise FileNotFoundError(f"expected the list {path}, {nearest(path)}. Expected layout:\n{self.layout}")
        return [composed(line) for line in lines_of(self.read(path), path)]

    def _instead(self, folder: Path, names: Sequence[str]) -> str:
        """What there is in a folder, of another suffix, in place of files of some names."""
        wanted = set(names)
        for path in self.passed_over.get(folder, []):
            if composed(path.relative_to(folder).with_suffix("").as_posix()) in wanted:
                jpeg = path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")
                reason = "is a JPEG, which changes label values: export PNG" if jpeg else "is of another kind"
                return f"; {path} {reason}"
        return ""

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
