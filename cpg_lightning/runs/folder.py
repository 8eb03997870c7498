"""The plain files of a run's folder, written and read without Lightning or torch."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXPERIMENT, SUMMARY, CONFIG, CHECKPOINTS = "experiment.json", "summary.json", "config.yaml", "checkpoints"


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
        """Whether the run came to its end."""
        return (self.path / SUMMARY).is_file()

    def is_free(self) -> bool:
        """Whether a new run may start here: the folder is not there, or has nothing but what ``cpg study`` keeps."""
        others = {"cell.json", "lock", "log.txt"}
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
        partial = self.path / f".{name}.partial"
        partial.write_text(json.dumps(values, indent=1) + "\n")
        os.replace(partial, self.path / name)

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint that was written last; None if there is none."""
        found = list((self.path / CHECKPOINTS).glob("*.ckpt"))
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)

    def checkpoint(self, which: str = "best") -> Path:
        """A checkpoint of the run.

        Args:
            which: ``best``, by the run's own score; or ``last``.

        Raises:
            FileNotFoundError: If there is none.
        """
        found = sorted((self.path / CHECKPOINTS).glob("*.ckpt"))
        last = [path for path in found if path.stem.startswith("last")]
        best = [path for path in found if path not in last]
        chosen = last if which == "last" else best or last
        if not chosen:
            raise FileNotFoundError(f"expected the {which} checkpoint of a run in {self.path / CHECKPOINTS}, got none")
        return max(chosen, key=lambda path: path.stat().st_mtime_ns)

    def label(self, checkpoint: str | Path) -> str:
        """What a checkpoint of the run is called: ``best``, ``last``, or the stem of its file."""
        path = Path(checkpoint).absolute()
        for which in ("last", "best"):
            if path == self.checkpoint(which).absolute():
                return which
        return path.stem


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
