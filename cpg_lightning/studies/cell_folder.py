"""A cell's folder: whether it is finished, who works on it, and whether its configuration has changed."""

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

State = Literal["finished", "broken off", "running", "failed", "missing"]
TAIL = 1 << 16  # bytes at the end of metrics.csv, of which the last rows are read
LARGEST_TEXT = 1 << 20  # bytes of a file that is compared by its text
NAMED_FILE = re.compile(r"[\w./+=-]+\.ya?ml\b")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        share: Of the whole training, 0 to 1; None where it is not known.
        text: In epochs or steps, such as ``epoch 3/30``.
        score: The newest mIoU of the validation images, the best one of a finished run.
        time: When this was written, in seconds since 1970.
    """

    share: float | None = None
    text: str = ""
    score: float | None = None
    time: float = 0.0


@dataclass(frozen=True)
class Status:
    """The state of a cell's folder.

    Args:
        state: Finished, broken off, running, failed or missing.
        progress: How far it is.
        changed: The file names, or "command", that are no longer those it was started with.
        note: Who runs it, or why it failed.
    """

    state: State
    progress: Progress = field(default_factory=Progress)
    changed: tuple[str, ...] = ()
    note: str = ""


class CellFolder:
    """The folder of one cell.

    Args:
        path: The folder; need not exist.
        command: The cell's command line, without the folder.
    """

    def __init__(self, path: Path, command: Sequence[str]) -> None:
        self.path = path
        self.run = RunFolder(path)
        self.command = list(command)

    def status(self, locked: bool = False) -> Status:
        """Look at the folder.

        Args:
            locked: Whether this process holds the folder's lock, so that nobody else works on it.
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
            return Status("broken off", progress, changed)
        return Status("missing")

    def record(self) -> dict[str, Any]:
        """What a run that is started now is started with: the command line, and the text of the files that it names."""
        return {"version": 1, "command": self.command, "files": named_files(self.command)}

    def write(self, record: dict[str, Any]) -> None:
        """Keep in ``cell.json`` what the run was started with."""
        self.run.write(CELL, record)

    def write_failure(self, exit_status: int) -> None:
        """Keep in ``cell.json``, beside what the run was started with, that it has failed."""
        self.write({**self._record(), "exit_status": exit_status})

    def started(self) -> bool:
        """Whether a run has begun here."""
        return self.run.is_run

    def progress(self) -> Progress:
        """How far the run is, by its metrics and, once it is finished, by its summary."""
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
        """Why the run failed: the command's own message at the end of its output, else the last line."""
        killed = f"killed by signal {-exit_status}; " if exit_status < 0 else f"exit status {exit_status}; "
        try:
            with (self.path / LOG).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
                text = ESCAPES.sub("", log.read().decode(errors="replace"))
        except OSError:
            return killed.rstrip("; ")
        lines = [line.strip() for line in text.splitlines() if line.strip() and "CPG_TRACEBACK" not in line]
        said = [line for line in lines[-20:] if line.startswith("cpg: ") or "error: " in line] or lines
        return killed + ("".join(each for each in said[-1] if each.isprintable()) if said else "no output")

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
        """The epochs and steps that the training ends after, 0 or less where they are no limit."""
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
    """The text of the files that a command line names, and of the YAML files that those name."""
    texts: dict[str, str] = {}
    names = [word.partition("=")[2] if word.startswith("--") else word for word in command]
    while names:
        name = names.pop(0)
        text = _text(name)
        if name not in texts and text is not None:
            texts[name] = text
            if name.endswith((".yaml", ".yml")):  # a name in it is looked for beside it
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
    except (OSError, ValueError):  # no text, or no name of a file
        return None


def _last_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows in the last part of a CSV file, by column."""
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
        text = text.partition("\n")[2]  # the first one may be cut
    columns = next(csv.reader([header.decode(errors="replace")]), [])
    return [dict(zip(columns, row, strict=True)) for row in csv.reader(text.splitlines()) if len(row) == len(columns)]


def _json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is none."""
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
