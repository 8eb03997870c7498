"""The plain files of a run's folder, written and read without Lightning or torch."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXPERIMENT, SUMMARY, CONFIG, METRICS = "experiment.json", "summary.json", "config.yaml", "metrics.csv"
CHECKPOINTS = "checkpoints"
CELL, LOCK, LOG = "cell.json", "lock", "log.txt"  # files of ``cpg study``


class RunFolder:
    """The folder of a run.

    Args:
        path: The folder; it may be missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def of_checkpoint(cls, path: str | Path) -> "RunFolder | None":
        """The run of a checkpoint file; None if the file is not in the folder of a run."""
        # The checkpoints of a requeued job are in the run's folder itself. A metric's name, such as val/mIoU, in the name of a
        # checkpoint makes a folder.
        folders = Path(path).absolute().parents[:3]
        return next((cls(folder) for folder in folders if (folder / EXPERIMENT).is_file()), None)

    @property
    def is_run(self) -> bool:
        """Whether a run has started in the folder."""
        return (self.path / EXPERIMENT).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished."""
        return (self.path / SUMMARY).is_file()

    def is_free(self) -> bool:
        """Whether a new run may start here: the folder is missing, or has only files of ``cpg study`` or of a killed start."""
        others = {CELL, LOCK, LOG, _partial(CELL), _partial(EXPERIMENT)}
        return not self.path.exists() or (self.path.is_dir() and {each.name for each in self.path.iterdir()} <= others)

    def make(self) -> None:
        """Make the folder.

        Raises:
            ValueError: If it cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError("no permission to write")
        except OSError as error:
            raise ValueError(
                f"expected a folder that can be written to, got {self.path} ({error}); "
                "choose another folder with --trainer.default_root_dir"
            ) from error

    def experiment(self) -> dict[str, Any]:
        """The content of ``experiment.json``.

        Raises:
            ValueError: If it cannot be read or lacks an entry.
        """
        return _read(self.path / EXPERIMENT, {"key": str, "name": str, "id": str, "seed": int, "parts": dict})

    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``.

        Raises:
            ValueError: If it cannot be read or lacks an entry.
        """
        return _read(self.path / SUMMARY, {"scores": dict})

    def begin(self, experiment: Mapping[str, Any]) -> None:
        """Write ``experiment.json``. A finished run that continues is no longer finished."""
        (self.path / SUMMARY).unlink(missing_ok=True)
        self.write(EXPERIMENT, experiment)

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file atomically: a reader sees either the new file or the previous one."""
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / _partial(name)
        partial.write_text(json.dumps(values, indent=1) + "\n")
        os.replace(partial, self.path / name)

    def checkpoints(self) -> list[Path]:
        """The checkpoints of the run, the newest one last."""
        return sorted((self.path / CHECKPOINTS).rglob("*.ckpt"), key=_written_at)

    def newest_checkpoint(self) -> Path | None:
        """The most recently written checkpoint; None if there is none. Lightning writes its own when SLURM requeues a job."""
        return max((*self.checkpoints(), *self.path.glob("hpc_ckpt_*.ckpt")), key=_written_at, default=None)


def _written_at(path: Path) -> int:
    """The time at which a file was written."""
    return path.stat().st_mtime_ns


def _partial(name: str) -> str:
    """The temporary name of a file during writing. A killed process leaves this file behind."""
    return f".{name}.partial"


def _read(path: Path, entries: Mapping[str, type]) -> dict[str, Any]:
    """Read a JSON file, and check the types of its entries."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"expected the {path.name} of a run, could not read {path}: {error}") from error
    wrong = [
        name
        for name, kind in entries.items()
        if not isinstance(content, dict) or not isinstance(content.get(name), kind)
    ]
    if wrong:
        raise ValueError(f"expected {', '.join(entries)} in {path}, got no {', '.join(wrong)}")
    return dict(content)
