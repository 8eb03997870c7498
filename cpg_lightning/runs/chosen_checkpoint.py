"""The best and the last checkpoint of a run."""

from pathlib import Path
from typing import Any

from cpg_lightning.networks.weights import read_file
from cpg_lightning.runs.folder import CHECKPOINTS, RunFolder


def chosen_checkpoint(run: RunFolder, which: str = "best") -> Path:
    """Return a checkpoint of a run.

    Args:
        run: The folder of the run.
        which: ``last``, or ``best`` by the run's own score. Without a best checkpoint, ``best`` is the last one.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If there are several checkpoints besides the last one, and the newest one cannot be read.
    """
    there = _named(run)
    chosen = there.get(which, there.get("last"))
    if chosen is None:
        raise FileNotFoundError(f"expected the {which} checkpoint of a run in {run.path / CHECKPOINTS}, got none")
    return chosen


def label_of(run: RunFolder, checkpoint: str | Path) -> str:
    """Return the name of a checkpoint of a run: ``best``, ``last``, or the stem of its file."""
    path = Path(checkpoint).absolute()
    return next((name for name, each in _named(run).items() if each.absolute() == path), path.stem)


def _named(run: RunFolder) -> dict[str, Path]:
    """Return the ``last`` and the ``best`` checkpoint of a run, if they exist."""
    files = run.checkpoints()
    last = [path for path in files if path.stem.startswith("last")]
    others = [path for path in files if path not in last]
    # Several others are those of save_top_k or of another score; the newest one need not be the best.
    best = _best(others, files[-1]) if len(others) > 1 else others
    return {**({"last": last[-1]} if last else {}), **({"best": best[-1]} if best else {})}


def _best(files: list[Path], newest: Path) -> list[Path]:
    """Return the best of some checkpoints, according to the first callback in the newest one that monitors a score."""
    checkpoint: Any = read_file(newest)
    states = checkpoint.get("callbacks") if isinstance(checkpoint, dict) else None
    for state in states.values() if isinstance(states, dict) else ():
        if isinstance(state, dict) and state.get("monitor") and state.get("best_model_score") is not None:
            name = Path(str(state.get("best_model_path"))).name  # the run may have been moved
            return [path for path in files if path.name == name] or files
    return files
