"""Runs the cells of a study, several at a time, each in its own process and folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol

from cpg_lightning.runs.folder import LOCK, LOG
from cpg_lightning.studies.cell_folder import CellFolder, Progress, Status
from cpg_lightning.studies.lock import Lock
from cpg_lightning.studies.resources import shares

LOOK_EVERY = 0.05  # seconds between two checks for ended runs
SHOW_EVERY = 1.0  # seconds between two updates of the display
RETRY_EVERY = 1.0  # seconds between two attempts to start a cell that another study runs
PATIENCE = 60.0  # seconds for a run to end by itself after a signal
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REQUEUED = 128 + signal.SIGUSR1  # exit status of a run that has asked SLURM to start the job again


@dataclass(frozen=True)
class Job:
    """A cell to run.

    Args:
        name: The cell's name.
        folder: The cell's folder.
        command: The command line, including the folder.
    """

    name: str
    folder: CellFolder
    command: list[str]


@dataclass
class Running:
    """A running cell.

    Args:
        job: The cell.
        record: The record of the run for ``cell.json``.
        process: The process of the run, which leads its own process group.
        lock: The lock of the folder.
        slot: Index of the run among those at the same time.
        began: Start time in seconds since 1970.
        begin: Progress at the start.
    """

    job: Job
    record: dict[str, Any]
    process: "subprocess.Popen[bytes]"
    lock: Lock
    slot: int
    began: float
    begin: Progress

    def seconds_left(self, progress: Progress) -> float | None:
        """Remaining time at the speed so far; None before the first progress."""
        done = (progress.share or 0.0) - (self.begin.share or 0.0)
        if progress.share is None or done <= 0 or progress.time <= self.began:
            return None
        return max(0.0, (progress.time - self.began) * (1 - progress.share) / done - (time.time() - progress.time))


class Display(Protocol):
    """Shows the state of the cells."""

    def started(self, job: Job, process: int) -> None:
        """Called when a cell has started."""

    def ended(self, job: Job, status: Status, seconds: float) -> None:
        """Called when a cell has ended, or was finished before."""

    def note(self, text: str) -> None:
        """Called with other messages for the user."""

    def refresh(self, running: Sequence[Running], waiting: int, elsewhere: Sequence[Job]) -> None:
        """Called about once per second: running cells, number of waiting cells, and cells that another study runs."""


class Runner:
    """Runs cells until each has finished or failed, or until a signal stops the runner.

    Args:
        jobs: The cells in their order.
        display: Shows the state of the cells.
        at_a_time: Number of cells that run at the same time.
        patience: Seconds for a run to end by itself after a signal. SIGTERM and SIGKILL follow.
    """

    def __init__(self, jobs: Sequence[Job], display: Display, at_a_time: int = 1, patience: float = PATIENCE) -> None:
        self.waiting = list(jobs)
        self.display = display
        self.environments = shares(at_a_time)
        self.patience = patience
        self.running: list[Running] = []
        self.elsewhere: list[Job] = []
        self.failed: dict[str, Status] = {}
        self.signals: list[int] = []
        self.shown = 0.0

    def run(self) -> int:
        """Run the cells.

        Returns:
            0 if all cells are finished, 1 if one failed, 128 + the number of the signal that stopped the runner.
        """
        # An ignored signal stays ignored, such as SIGHUP under nohup.
        caught = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._stop) for number in caught}
        # SLURM sends SIGUSR1 before the end of the job, to the runs too, which handle it. Here it would end the study.
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda number, frame: None)
        retried = time.monotonic()
        try:
            while self.running or ((self.waiting or self.elsewhere) and not self.signals):
                if self.elsewhere and time.monotonic() - retried > RETRY_EVERY:
                    self.waiting += self.elsewhere
                    self.elsewhere, retried = [], time.monotonic()
                self._fill()
                self._wait()
                if self.signals:
                    self._end_all()
        finally:
            for each in self.running:  # after an error here, no process stays behind
                _signal(each.process, signal.SIGKILL)
            for number, handler in before.items():
                signal.signal(number, handler)
        return 128 + self.signals[0] if self.signals else int(bool(self.failed))

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if signal.SIGUSR1 not in self.signals:  # SLURM sends SIGTERM to a job that it requeues, and later SIGKILL
            self.signals.append(number)

    def _fill(self) -> None:
        """Start cells in the free slots."""
        free = [slot for slot in range(len(self.environments)) if slot not in [each.slot for each in self.running]]
        while free and self.waiting and not self.signals:
            job = self.waiting.pop(0)
            try:
                started = self._start(job, free[0])
            except OSError as error:
                self._fail(job, Status("failed", note=str(error)), 0.0)
                continue
            if started:
                free.pop(0)

    def _start(self, job: Job, slot: int) -> bool:
        """Start a cell unless it is finished, or another study runs it."""
        job.folder.path.mkdir(parents=True, exist_ok=True)
        lock = Lock(job.folder.path / LOCK)
        if not lock.acquire():
            self.elsewhere.append(job)
            return False
        if not lock.works:
            self.display.note(f"{lock.file.name}: no locks on this file system; run one study at a time in this folder")
        try:
            status = job.folder.status(locked=True)
            if status.state == "finished" and not status.changed:
                self.display.ended(job, status, 0.0)
                lock.release()
                return False
            # The record of a started run is replaced only after `cpg fit` has checked that the change does not affect the
            # results.
            record = job.folder.record()
            if not status.changed or not job.folder.started():
                job.folder.write(record)
            with (job.folder.path / LOG).open("ab") as log:
                process = self._launch(job, lock, log, self.environments[slot])
        except BaseException:
            lock.release()
            raise
        lock.name_owner(process.pid)
        self.running.append(Running(job, record, process, lock, slot, time.time(), status.progress))
        self.display.started(job, process.pid)
        self.shown = 0.0  # show it at once
        return True

    def _launch(self, job: Job, lock: Lock, log: IO[bytes], share: dict[str, str]) -> "subprocess.Popen[bytes]":
        log.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S} {' '.join(job.command)}\n".encode())
        log.flush()
        # `cpg` and `python` are those of this installation, even if its environment is not activated.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **share, "PATH": path, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C reaches only this process, which forwards it
            # The folder stays locked while the run continues, even if this process is killed.
            pass_fds=[lock.file.fileno()],
        )

    def _wait(self) -> None:
        """Update the display, sleep for an instant, and collect ended cells."""
        if time.monotonic() - self.shown >= SHOW_EVERY:
            self.shown = time.monotonic()
            self.display.refresh(self.running, len(self.waiting), self.elsewhere)
        time.sleep(LOOK_EVERY)
        self._collect()

    def _collect(self) -> None:
        """Remove the ended cells, and record their results."""
        for each in [each for each in self.running if each.process.poll() is not None]:
            self.running.remove(each)
            self.shown = 0.0
            folder, exit_status = each.job.folder, each.process.returncode
            seconds = time.time() - each.began
            finished = exit_status == 0 and (folder.path / "summary.json").is_file()
            if finished:
                folder.write(each.record)
                self.display.ended(each.job, folder.status(locked=True), seconds)
            elif exit_status == REQUEUED and not self.signals:
                self.signals.append(signal.SIGUSR1)  # no other cell starts, and the running ones end too
            elif not self.signals:
                note = (
                    folder.reason(exit_status)
                    if exit_status
                    else "ended before the end of the training: no summary.json"
                )
                if (folder.path / "summary.json").is_file():
                    note = f"its configuration has changed since it was finished; {note}"
                else:
                    folder.write_failure(exit_status)
                self._fail(each.job, Status("failed", folder.progress(), note=note), seconds)
            each.lock.release()

    def _fail(self, job: Job, status: Status, seconds: float) -> None:
        self.failed[job.name] = status
        self.display.ended(job, status, seconds)

    def _end_all(self) -> None:
        """Forward the signal to the runs, and wait for them until a second signal."""
        self.display.note("stopping the running cells; a second Ctrl-C stops without waiting for them")
        # The first signal goes only to the run, which ends its workers itself. If a worker is killed, the run fails.
        for each in self.running:
            each.process.send_signal(self.signals[0])
        self._wait_for_the_end()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for each in self.running:
                _signal(each.process, number)
            self._wait_for_the_end()

    def _wait_for_the_end(self) -> None:
        until = time.monotonic() + self.patience
        while self.running and len(self.signals) == 1 and time.monotonic() < until:
            self._wait()


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to a run and its child processes."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
