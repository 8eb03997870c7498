"""The plain files of a run's folder, written and read without Lightning or torch."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXPERIMENT, SUMMARY, CONFIG, METRICS = "experiment.json", "summary.json", "config.yaml", "metrics.csv"
CHECKPOINTS = "checkpoints"
CELL, LOCK, LOG = "cell.json", "lock", "log.txt"  # of ``cpg study``


class RunFolder:
    """The folder of a run.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def of_checkpoint(cls, path: str | Path) -> "RunFolder | None":
        """The run that a checkpoint file belongs to; None if it lies in no run's folder."""
        folder = Path(path).absolute().parent.parent
        return cls(folder) if (folder / EXPERIMENT).is_file() else None

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / EXPERIMENT).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished."""
        return (self.path / SUMMARY).is_file()

    def is_free(self) -> bool:
        """Whether a new run may start here: the folder is not there, or has nothing but what ``cpg study`` keeps."""
        others = {CELL, LOCK, LOG, _partial(CELL)}
        return not self.path.exists() or (self.path.is_dir() and {each.name for each in self.path.iterdir()} <= others)

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
        """Record the experiment. A finished run that is continued is finished no more."""
        (self.path / SUMMARY).unlink(missing_ok=True)
        self.write(EXPERIMENT, experiment)

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file at once: a reader sees the whole of it or the earlier one."""
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / _partial(name)
        partial.write_text(json.dumps(values, indent=1) + "\n")
        os.replace(partial, self.path / name)

    def checkpoints(self) -> dict[str, Path]:
        """The newest checkpoints of the run: ``last`` and ``best``, as far as there are any."""
        found = sorted((self.path / CHECKPOINTS).glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        return {"last" if path.stem.startswith("last") else "best": path for path in found}

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint that was written last; None if there is none. Lightning writes its own when SLURM requeues a job."""
        there = [*self.checkpoints().values(), *self.path.glob("hpc_ckpt_*.ckpt")]
        return max(there, key=lambda path: path.stat().st_mtime_ns, default=None)

    def checkpoint(self, which: str = "best") -> Path:
        """A checkpoint of the run.

        Args:
            which: ``best``, by the run's own score, or the last where there is no best one; or ``last``.

        Raises:
            FileNotFoundError: If there is none.
        """
        there = self.checkpoints()
        chosen = there.get(which, there.get("last"))
        if chosen is None:
            raise FileNotFoundError(f"expected the {which} checkpoint of a run in {self.path / CHECKPOINTS}, got none")
        return chosen

    def label(self, checkpoint: str | Path) -> str:
        """The name of a checkpoint of the run: ``best``, ``last``, or the stem of its file."""
        path = Path(checkpoint).absolute()
        names = {each.absolute(): name for name, each in self.checkpoints().items()}
        return names.get(path, path.stem)


def _partial(name: str) -> str:
    """The name of a file that is being written; a killed process leaves it behind."""
    return f".{name}.partial"


def _read(path: Path, entries: Mapping[str, type]) -> dict[str, Any]:
    """A JSON file with entries of some types."""
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
