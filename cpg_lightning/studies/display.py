"""Terminal output of a study: the table of its cells, and one progress line per running cell."""

import math
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cpg_lightning.runs.folder import LOG
from cpg_lightning.studies.cell_folder import Progress, Status
from cpg_lightning.studies.runner import Job, Running

STYLES = {"finished": "green", "interrupted": "yellow", "running": "cyan", "failed": "red", "missing": "dim"}
NEWS_EVERY = 300.0  # seconds between two lines of one cell, if the output is not a terminal
WIDTH = 200  # columns of a table, if the output is not a terminal


def new_console() -> Console:
    """A console that prints names unchanged."""
    console = Console(emoji=False, highlight=False)
    return console if console.is_terminal else Console(emoji=False, highlight=False, width=WIDTH)


def show_cells(console: Console, cells: Iterable[tuple[int, str, Status]]) -> None:
    """Print the number, name and status of each cell as a table."""
    table = Table(box=None, pad_edge=False)
    for column, align in (
        ("cell", "right"),
        ("name", "left"),
        ("state", "left"),
        ("done", "left"),
        ("mIoU", "right"),
        ("", "left"),
    ):
        table.add_column(column, justify=align, overflow="fold")  # type: ignore[arg-type]
    for number, name, status in cells:
        changed = f"changed since: {', '.join(status.changed)}" if status.changed else ""
        table.add_row(
            str(number),
            Text(name),
            Text(status.state, STYLES[status.state]),
            Text(status.progress.text),
            _score(status.progress),
            Text("; ".join(part for part in (status.note, changed) if part)),
        )
    console.print(table)


class StudyDisplay:
    """Shows one line per cell with its progress and remaining time; in a log file, a few lines per cell.

    Args:
        console: Console to print to.
        total: Number of cells.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self.finished = self.failed = 0
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self.news: dict[str, tuple[float, str]] = {}  # time and text of each cell's last line
        self.waited_for: set[str] = set()
        self.notes: set[str] = set()

    def __enter__(self) -> Self:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def started(self, job: Job, process: int) -> None:
        """Print the process and the log file of a started cell."""
        self.news[job.name] = (time.monotonic(), "")
        self._print(f"start {job.name}: process {process}, output in {job.folder.path / LOG}")

    def ended(self, job: Job, status: Status, seconds: float) -> None:
        """Count an ended cell, and print its result unless it was finished before."""
        finished = status.state == "finished"
        self.finished += finished
        self.failed += not finished
        result = f"mIoU {_score(status.progress)}" if finished else status.note
        if seconds or not finished:
            self._print(f"{status.state} {job.name} after {duration(seconds)}: {result}", STYLES[status.state])

    def note(self, text: str) -> None:
        """Print a line; a repeated line is not printed again."""
        if text not in self.notes:
            self.notes.add(text)
            self._print(text)

    def refresh(self, running: Sequence[Running], waiting: int, elsewhere: Sequence[Job]) -> None:
        """Show the progress of each running cell."""
        for job in elsewhere:
            if job.name not in self.waited_for:
                self.waited_for.add(job.name)
                self._print(f"{job.name} runs elsewhere: {job.folder.status().note}")
        if self.live is None:
            self._write_news(running)
            return
        table = Table.grid(padding=(0, 2))
        for each in running:
            progress = each.job.folder.progress()
            table.add_row(Text(each.job.name), *(Text(part) for part in _parts(each, progress)))
        counts = {
            "finished": self.finished,
            "failed": self.failed,
            "running": len(running),
            "running elsewhere": len(elsewhere),
            "waiting": waiting,
        }
        text = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
        self.live.update(Group(table, Text(f"{self.total} cells: {text}", "dim")), refresh=True)

    def _write_news(self, running: Sequence[Running]) -> None:
        now = time.monotonic()
        for each in running:
            last, before = self.news[each.job.name]
            if now - last < NEWS_EVERY:
                continue
            text = ", ".join(part for part in _parts(each, each.job.folder.progress()) if part)
            self.news[each.job.name] = (now, text)
            if text != before:
                self._print(f"{each.job.name}: {text}")

    def _print(self, text: str, style: str = "") -> None:
        shown = f"[{style}]{escape(text)}[/]" if style else escape(text)
        self.console.print(f"{datetime.now():%H:%M:%S} {shown}", soft_wrap=True)


def duration(seconds: float) -> str:
    """A duration in a readable unit.

    Example:
        >>> [duration(seconds) for seconds in (42, 754, 9000)]
        ['42 s', '13 min', '2.5 h']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _parts(running: Running, progress: Progress) -> list[str]:
    left = running.seconds_left(progress)
    return [
        progress.text or f"started {duration(time.time() - running.began)} ago",
        f"mIoU {_score(progress)}" if progress.score is not None else "",
        f"{duration(left)} left" if left is not None else "",
    ]


def _score(progress: Progress) -> str:
    return "" if progress.score is None else f"{progress.score:.4f}"
