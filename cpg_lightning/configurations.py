"""The configurations that come with the package, and ``cpg init``, which copies them into a folder."""

import shutil
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

FOLDER = "experiments"
# Suffixes of the copied files. In a checkout, the folder also contains benchmarks and results.
SUFFIXES = (".yaml", ".sh", ".sbatch")
RESULTS = "results"


def source() -> Path:
    """The folder of the configurations: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).parent
    return next(folder for folder in (package / FOLDER, package.parent / FOLDER) if folder.is_dir())


def init(arguments: Sequence[str]) -> int:
    """Write the configurations to a folder: ``cpg init [FOLDER]``. Existing files are never overwritten.

    Args:
        arguments: The arguments after the command's name.

    Returns:
        The exit status, 0.

    Raises:
        OSError: If a file cannot be written.
    """
    parser = ArgumentParser(
        "cpg init",
        description=f"Writes the configurations that come with the package to FOLDER/{FOLDER}. Existing files stay unchanged.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="default: this folder")
    target = parser.parse_args(arguments).folder / FOLDER
    written, kept = copy(source(), target)
    print(f"{target}: {written} files written")
    for path in kept:
        print(f"kept, and different from the one that comes with the package: {path}")
    if written:
        print(f"first run: cpg fit --config {target / 'quickstart.yaml'}")
    return 0


def copy(origin: Path, target: Path) -> tuple[int, list[Path]]:
    """Copy the configurations that are missing in a folder.

    Args:
        origin: The folder of the configurations.
        target: The destination folder.

    Returns:
        The number of written files, and the existing files with different content.
    """
    written, kept = 0, []
    for path in sorted(origin.rglob("*")):
        name = path.relative_to(origin)
        if path.suffix not in SUFFIXES or name.parts[0] == RESULTS:
            continue
        place = target / name
        if place.exists():
            kept += [place] if place.read_bytes() != path.read_bytes() else []
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
        written += 1
    return written, kept


def hint(path: str) -> str:
    """Remedy for a missing file of ``experiments/``, appended to its error message; empty if the folder exists."""
    if Path(path).parts[:1] != (FOLDER,) or Path(FOLDER).is_dir():
        return ""
    return f"; cpg init writes the configurations that come with the package to {FOLDER}/"
