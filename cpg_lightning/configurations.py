"""The configurations that come with the package, and ``cpg init``, which copies them into a folder."""

import shutil
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

FOLDER = "experiments"
# What is copied; a checkout's folder holds benchmarks and results too.
SUFFIXES = (".yaml", ".sh", ".sbatch")
RESULTS = "results"


def source() -> Path:
    """The folder of the configurations: inside of an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    return next(folder for folder in (package / FOLDER, package.parent / FOLDER) if folder.is_dir())


def init(arguments: Sequence[str]) -> int:
    """Write the configurations to a folder: ``cpg init [FOLDER]``. A file that is there is never written over.

    Args:
        arguments: The command's arguments after its name.

    Returns:
        The exit status, 0.

    Raises:
        OSError: If a file cannot be written.
    """
    parser = ArgumentParser(
        "cpg init",
        description=f"Writes the configurations that come with the package to FOLDER/{FOLDER}. Files that are there stay.",
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
    """Copy the configurations that a folder does not have yet.

    Args:
        origin: The folder of the configurations.
        target: The folder that they are copied to.

    Returns:
        The number of files that were written, and those that were there with another content.
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
    """What to do about a missing file: for one of ``experiments/`` in a folder that has none, ``cpg init``."""
    if Path(path).parts[:1] != (FOLDER,) or Path(FOLDER).is_dir():
        return ""
    return f"; cpg init writes the configurations that come with the package to {FOLDER}/"
