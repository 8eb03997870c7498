"""Writes the logged values of a training to a CSV file, with any logger or none."""

import contextlib
import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

NAME = "metrics.csv"
PLACE = ["epoch", "step"]  # the first columns
MOST_PENDING = 100  # largest number of unwritten rows, so that the file grows during long epochs

Row = tuple[int, int, dict[str, Tensor]]  # epoch, step, values


class MetricsFile(Callback):
    """Writes all logged values of a training to ``metrics.csv``, with any logger of the Trainer.

    The columns are ``epoch``, ``step`` and the names of the logged values. A cell is empty if its value was not logged. Each
    training step that Lightning logs (every ``log_every_n_steps``), each validation, and each end of an epoch with logged
    values has a row. ``step`` is the number of completed optimizer steps, ``trainer.global_step``.

    Values stay on their device until the next validation or checkpoint. Then all are copied at once, so that no training
    step waits for the device. The file is complete when a checkpoint is written. A training that continues from a checkpoint
    keeps the rows up to the checkpoint and drops later ones. A new training starts a new file. A value that a callback logs
    in ``on_train_batch_end`` is in the row of the step if this callback comes later in the list of callbacks.

    Args:
        folder: Folder of the file; the trainer's ``default_root_dir`` by default.

    Example:
        >>> trainer = L.Trainer(callbacks=[MetricsFile()], logger=False)  # doctest: +SKIP
    """

    only_watches = True

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self.pending: list[Row] = []
        self.columns: list[str] = []
        self.rows = 0  # number of rows in the file
        self.kept: int | None = None  # number of rows when the checkpoint was written
        self.before: dict[str, Tensor] = {}  # values logged before the current step, validation or end of an epoch
        self.steps_before = 0
        self.ended: tuple[int, int] | None = None  # epoch and step of an end of an epoch without a row

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Reset the number of rows of a checkpoint."""
        self.kept = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of rows that the file had when the checkpoint was written."""
        self.kept = int(state_dict["rows"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the file. For a continued training, drop the rows that it will write again."""
        self.pending, self.columns, self.rows, self.ended = [], [], 0, None
        if not self._is_writer(trainer):
            return
        path = self._path(trainer)
        if path.is_file() and trainer.global_step:
            self.columns, rows = _read(path)
            step = self.columns.index("step")
            rows = [row for row in rows[: self.kept] if int(row[step]) <= trainer.global_step]
            self.rows = len(rows)
            _replace(path, [self.columns, *rows])
        elif path.is_file():
            path.unlink()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the values logged at the end of the last epoch."""
        self._take_epoch(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Store the values logged before."""
        self.steps_before = trainer.global_step
        if self._is_logged(trainer, self.steps_before + 1):
            self.before = dict(trainer.logged_metrics)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect the logged values, if Lightning logs this step."""
        if trainer.global_step > self.steps_before and self._is_logged(trainer, trainer.global_step):
            self._take(trainer, trainer.current_epoch, trainer.global_step)
            if len(self.pending) >= MOST_PENDING:
                self._write(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Store the values logged before."""
        if trainer.state.fn == "fit":
            self.before = dict(trainer.logged_metrics)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the scores, and write all rows."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._take(trainer, trainer.current_epoch, trainer.global_step)
            self._write(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Store the values logged before. Callbacks and the module may log more after this hook."""
        # In every process, because the first access gathers the values of an epoch from all processes.
        self.before = dict(trainer.logged_metrics)
        self.ended = trainer.current_epoch, trainer.global_step

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write all rows, so that a continued training finds them."""
        if trainer.state.fn == "fit":
            self._take_epoch(trainer)
            self._write(trainer)
            checkpoint["callbacks"][self.state_key] = {"rows": self.rows}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the remaining rows."""
        self._take_epoch(trainer)
        self._write(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the remaining rows, unless the device has failed."""
        with contextlib.suppress(RuntimeError):
            self._write(trainer)

    def _path(self, trainer: L.Trainer) -> Path:
        return Path(self.folder or trainer.default_root_dir) / NAME

    def _is_writer(self, trainer: L.Trainer) -> bool:
        return trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]

    def _is_logged(self, trainer: L.Trainer, step: int) -> bool:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and step % every == 0

    def _take(self, trainer: L.Trainer, epoch: int, step: int) -> None:
        """Collect the values logged since ``before``. A new value is a new tensor object in Lightning's dictionary."""
        logged = dict(trainer.logged_metrics)
        values = {name: value for name, value in logged.items() if value is not self.before.get(name)}
        self.before = logged
        if values and self._is_writer(trainer):
            self.pending.append((epoch, step, values))

    def _take_epoch(self, trainer: L.Trainer) -> None:
        if self.ended is not None:
            self._take(trainer, *self.ended)
            self.ended = None

    def _write(self, trainer: L.Trainer) -> None:
        """Append the pending rows."""
        if not self.pending:
            return
        rows, self.pending = _fetched(self.pending), []
        path = self._path(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = list(dict.fromkeys([*(self.columns or PLACE), *(name for row in rows for name in row)]))
        cells = [[row.get(column, "") for column in columns] for row in rows]
        if columns == self.columns and path.is_file():
            with path.open("ab") as file:
                file.write(_encoded(cells))
                file.flush()
                os.fsync(file.fileno())
        else:  # the file does not exist, or lacks columns
            written = _read(path)[1] if self.rows else []
            added = len(columns) - len(self.columns)
            _replace(path, [columns, *([*row, *added * [""]] for row in written), *cells])
        self.columns = columns
        self.rows += len(rows)


def _fetched(rows: list[Row]) -> list[dict[str, str]]:
    """Return the cells of each row by column. All values of a device are copied at once."""
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[int, str, Tensor]]] = defaultdict(list)
    for index, (_, _, values) in enumerate(rows):
        for name, value in values.items():
            groups[value.device, value.dtype].append((index, name, value.detach().reshape(())))
    cells = [{"epoch": str(epoch), "step": str(step)} for epoch, step, _ in rows]
    for group in groups.values():
        numbers = torch.stack([value for _, _, value in group]).cpu().numpy()
        for (index, name, _), number in zip(group, numbers, strict=True):
            cells[index][name] = str(number)  # the fewest digits that give the same float32
    return cells


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read the columns and the rows of a file.

    Raises:
        ValueError: If the first columns are not those of this callback.
    """
    text = path.read_bytes().decode()
    whole = text[: text.rfind("\n") + 1]  # a killed process may leave an incomplete last line
    columns, *rows = list(csv.reader(io.StringIO(whole, newline=""))) or [[]]
    if columns[:2] != PLACE:
        raise ValueError(
            f"expected a file of metrics with the columns {', '.join(PLACE)}, got {', '.join(columns) or 'none'}: {path}; "
            "move it away, or choose another folder for the run"
        )
    return columns, rows


def _encoded(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _replace(path: Path, rows: Iterable[Iterable[str]]) -> None:
    """Write a file atomically."""
    partial = path.with_name(f".{path.name}")
    with partial.open("wb") as file:
        file.write(_encoded(rows))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
