"""``cpg study``: runs all cells of a study."""

import shlex
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from cpg_lightning.configurations import hint
from cpg_lightning.studies.cell_folder import CellFolder
from cpg_lightning.studies.display import StudyDisplay, new_console, show_cells
from cpg_lightning.studies.runner import Job, Runner
from cpg_lightning.studies.sweep import Cell, read_study

DESCRIPTION = """\
Runs all cells of a study. A study is one or more W&B sweep files with method: grid. A cell is one combination of their
parameter values: one run of cpg fit in its own folder, runs/STUDY/CELL.

A study may be stopped and started again at any time: finished cells are skipped, the others continue. Several cpg study
processes may work on the same folder.
"""
EXAMPLE = """\
example:
  cpg study experiments/studies/camvid/*.yaml --list
  cpg study experiments/studies/camvid/*.yaml --jobs 4 -- --data.root path/to/camvid
"""


def study(arguments: list[str]) -> int:
    """Run the cells of sweep files: ``cpg study FILES... [options] [-- options of every cpg fit]``.

    Args:
        arguments: The arguments after the command's name.

    Returns:
        The exit status: 0 if all cells are finished, 1 if one has failed, 128 + the number of the signal that stopped
        the study (130 for Ctrl-C).

    Raises:
        ValueError: If a sweep file is invalid, if two cells share a folder, if a file that a cell names does not exist,
            or if the cell number does not exist.
    """
    own, options = _split(arguments)
    given = _parser().parse_args(own)
    cells = list(enumerate(read_study(given.files), start=1))
    several = len({cell.study for _, cell in cells}) > 1
    jobs = [(number, _job(cell, several, given.output, options)) for number, cell in cells]
    _check_folders([job for _, job in jobs], [cell for _, cell in cells])
    _check_files([cell for _, cell in cells])
    if given.cell is not None:
        if not 1 <= given.cell <= len(jobs):
            raise ValueError(f"expected --cell to be from 1 to {len(jobs)}, the number of cells, got {given.cell}")
        jobs = [jobs[given.cell - 1]]
    console = new_console()
    if given.list:
        show_cells(console, ((number, job.name, job.folder.status()) for number, job in jobs))
        return 0
    with StudyDisplay(console, len(jobs)) as display:
        runner = Runner([job for _, job in jobs], display, given.jobs)
        status = runner.run()
    failed = [(number, job.name, runner.failed[job.name]) for number, job in jobs if job.name in runner.failed]
    if failed:
        show_cells(console, failed)
    if status > 128:
        again = shlex.join(["cpg", "study", *arguments])
        console.print(f"stopped; continue with: {again}", soft_wrap=True, markup=False)
    else:
        console.print(f"{display.finished} of {len(jobs)} cells are finished", markup=False)
    return status


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments before and after ``--``."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "cpg study",
        usage="cpg study FILES... [options] [-- options of every cpg fit]",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILES", help="W&B sweep files, run in this order")
    parser.add_argument("--list", action="store_true", help="only show the cells and their states")
    parser.add_argument("--cell", type=int, metavar="N", help="run only cell number N of --list, from 1")
    parser.add_argument(
        "--jobs",
        type=_positive,
        default=1,
        metavar="N",
        help="number of cells at the same time, which share GPUs and cores (default: 1)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="folder of the cells' folders (default: runs/STUDY)"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _job(cell: Cell, several: bool, output: Path | None, options: list[str]) -> Job:
    """A cell with its folder and command; with several studies, its name includes the study."""
    folder = (output or Path("runs") / cell.study) / cell.name
    command = [*cell.command, *options]
    name = f"{cell.study}/{cell.name}" if several else cell.name
    return Job(name, CellFolder(folder, command), [*command, f"--output={folder}"])


def _check_folders(jobs: list[Job], cells: list[Cell]) -> None:
    """Check that no two cells share a folder, for example cells of several studies with one ``--output``."""
    first: dict[Path, Cell] = {}
    for job, cell in zip(jobs, cells, strict=True):
        other = first.setdefault(job.folder.path, cell)
        if other is not cell:
            raise ValueError(
                f"expected a folder for each cell, got {job.folder.path} for cells of {other.file} and {cell.file}; "
                "remove --output"
            )


def _check_files(cells: list[Cell]) -> None:
    """Check that the YAML files of all cells exist, before the first cell starts."""
    for cell in cells:
        for name in (word.rpartition("=")[2] for word in cell.command):
            if name.endswith((".yaml", ".yml")) and not Path(name).is_file():
                raise ValueError(
                    f"expected the file {name}, found none (cell {cell.name} of {cell.file}); paths in sweep files are relative "
                    f"to the current folder{hint(name)}"
                )
