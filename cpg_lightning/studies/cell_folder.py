"""The folder of a cell: its state, its progress, the process that runs it and changes of its configuration."""

import csv
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from cpg_lightning.runs.folder import CELL, CONFIG, LOCK, LOG, METRICS, SUMMARY, RunFolder
from cpg_lightning.studies.lock import lock_owner

State = Literal["finished", "interrupted", "running", "failed", "missing"]
TAIL = 1 << 16  # bytes read from the end of metrics.csv and of the log
LARGEST_TEXT = 1 << 20  # largest size in bytes of a file whose text is compared
NAMED_FILE = re.compile(r"[\w./+=-]+\.ya?ml\b")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Args:
        share: Completed fraction of the training, 0 to 1; None if unknown.
        text: Progress in epochs or steps, such as ``epoch 3/30``.
        score: The newest validation mIoU; of a finished run, the best one.
        time: Time at which the progress was written, in seconds since 1970.
    """

    share: float | None = None
    text: str = ""
    score: float | None = None
    time: float = 0.0


@dataclass(frozen=True)
class Status:
    """The state of a cell's folder.

    Args:
        state: Finished, interrupted, running, failed or missing.
        progress: Progress of the run.
        changed: Names of the files that have changed since the start of the run; "command" for a changed command line.
        note: The process that runs the cell, or the reason of its failure.
    """

    state: State
    progress: Progress = field(default_factory=Progress)
    changed: tuple[str, ...] = ()
    note: str = ""


class CellFolder:
    """The folder of one cell.

    Args:
        path: The folder; it may be missing.
        command: The cell's command line, without the folder.
    """

    def __init__(self, path: Path, command: Sequence[str]) -> None:
        self.path = path
        self.run = RunFolder(path)
        self.command = list(command)

    def status(self, locked: bool = False) -> Status:
        """The state of the cell.

        Args:
            locked: Whether this process holds the folder's lock, so that no other process runs the cell.
        """
        record = self._record()
        progress = self.progress()
        owner = None if locked else lock_owner(self.path / LOCK)
        changed = self._changed(record)
        if owner is not None:
            return Status("running", progress, changed, owner)
        if self.run.is_finished:
            return Status("finished", progress, changed)
        if isinstance(exit_status := record.get("exit_status"), int):
            return Status("failed", progress, changed, self.reason(exit_status))
        if record or self.run.is_run:
            return Status("interrupted", progress, changed)
        return Status("missing")

    def record(self) -> dict[str, Any]:
        """Return the record of a new run: the command line, and the text of the files that it names."""
        return {"version": 1, "command": self.command, "files": named_files(self.command)}

    def write(self, record: dict[str, Any]) -> None:
        """Write the record of a run to ``cell.json``."""
        self.run.write(CELL, record)

    def write_failure(self, exit_status: int) -> None:
        """Add the exit status of a failed run to ``cell.json``."""
        self.write({**self._record(), "exit_status": exit_status})

    def started(self) -> bool:
        """Whether a run has started in the folder."""
        return self.run.is_run

    def progress(self) -> Progress:
        """The progress of the run, from its summary if it is finished, else from its metrics."""
        summary = _json(self.path / SUMMARY)
        if summary:
            best = summary.get("best")
            return Progress(
                1.0,
                f"{summary.get('epochs', '?')} epochs",
                _number(best.get("mIoU") if isinstance(best, dict) else None),
            )
        metrics = self.path / METRICS
        rows = _last_rows(metrics)
        if not rows:
            return Progress()
        scored = [row for row in rows if row.get("val/mIoU")]
        score = _number(scored[-1]["val/mIoU"]) if scored else None
        epoch, step = _number(rows[-1].get("epoch")), _number(rows[-1].get("step"))
        if epoch is None or step is None:
            return Progress()
        done = epoch + 1 if rows[-1].get("val/mIoU") else epoch
        epochs, steps = self._length()
        if steps > 0:
            share, text = (step + 1) / steps, f"step {step + 1:.0f}/{steps}"
        elif epochs > 0:
            share, text = done / epochs, f"epoch {done:.0f}/{epochs}"
        else:
            return Progress(None, f"epoch {done:.0f}", score, metrics.stat().st_mtime)
        return Progress(min(share, 1.0), text, score, metrics.stat().st_mtime)

    def reason(self, exit_status: int) -> str:
        """The reason of a failure: the command's error message at the end of the log, or else the last line."""
        killed = f"killed by signal {-exit_status}; " if exit_status < 0 else f"exit status {exit_status}; "
        try:
            with (self.path / LOG).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
                text = ESCAPES.sub("", log.read().decode(errors="replace"))
        except OSError:
            return killed.rstrip("; ")
        lines = [line.strip() for line in text.splitlines() if line.strip() and "CPG_TRACEBACK" not in line]
        errors = [line for line in lines[-20:] if line.startswith("cpg: ") or "error: " in line] or lines
        return killed + ("".join(each for each in errors[-1] if each.isprintable()) if errors else "no output")

    def _record(self) -> dict[str, Any]:
        return _json(self.path / CELL)

    def _changed(self, record: dict[str, Any]) -> tuple[str, ...]:
        if not record:
            return ("command",) if self.started() else ()
        before, now = record.get("files"), named_files(self.command)
        before = before if isinstance(before, dict) else {}
        files = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        return (*(["command"] if record.get("command") != self.command else []), *files)

    def _length(self) -> tuple[int, int]:
        """The largest number of epochs and of steps of the training; 0 or less means no limit."""
        try:
            config = yaml.load(
                (self.path / CONFIG).read_text(encoding="utf-8"),
                Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
            )
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return 0, 0
        trainer = config.get("trainer") if isinstance(config, dict) else None
        limits = [trainer.get(name) if isinstance(trainer, dict) else None for name in ("max_epochs", "max_steps")]
        epochs, steps = (limit if isinstance(limit, int) else 0 for limit in limits)
        return epochs, steps


def named_files(command: Sequence[str]) -> dict[str, str]:
    """The text of the files that a command line names, and of the YAML files that these files name."""
    texts: dict[str, str] = {}
    names = [word.partition("=")[2] if word.startswith("--") else word for word in command]
    while names:
        name = names.pop(0)
        text = _text(name)
        if name not in texts and text is not None:
            texts[name] = text
            if name.endswith((".yaml", ".yml")):  # names in it are relative to its folder
                names += [
                    os.path.normpath(os.path.join(os.path.dirname(name), each)) for each in NAMED_FILE.findall(text)
                ]
    return texts


def _text(name: str) -> str | None:
    try:
        path = Path(name)
        if not path.is_file() or path.stat().st_size > LARGEST_TEXT:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):  # not text, or not a file name
        return None


def _last_rows(path: Path) -> list[dict[str, str]]:
    """The complete rows in the last part of a CSV file, by column."""
    try:
        with path.open("rb") as file:
            header = file.readline()
            size = file.seek(0, os.SEEK_END)
            begin = max(len(header), size - TAIL)
            file.seek(begin)
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    if begin > len(header):
        text = text.partition("\n")[2]  # the first row may be incomplete
    columns = next(csv.reader([header.decode(errors="replace")]), [])
    return [dict(zip(columns, row, strict=True)) for row in csv.reader(text.splitlines()) if len(row) == len(columns)]


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
