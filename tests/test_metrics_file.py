"""The file of metrics has what a logger of Lightning gets, once, with any logger and without, also after a resume."""

import csv
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import simulated
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from simulated_device import DEVICE
from steps import Simulated, in_two_processes, module_of
from tiny import Broken, Recording, trainer_of

from cpg_lightning.callbacks import MetricsFile


class Extra(Callback):
    """Logs a value at the end of each epoch, and one in every second validation."""

    def on_train_epoch_end(self, trainer, module):
        module.log("of an epoch", torch.tensor(10.0 + trainer.current_epoch))

    def on_validation_epoch_end(self, trainer, module):
        if trainer.current_epoch % 2:
            module.log("now and then", torch.tensor(0.25))


def rows_of(path="metrics.csv"):
    """The rows of a file, without empty cells."""
    with open(path, newline="") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def fitted(loader, *callbacks, **options):
    settings = {"max_epochs": 4, "log_every_n_steps": 3, "callbacks": [*callbacks], **options}
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = trainer_of(**settings)
    trainer.fit(module_of(), loader, loader, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize(("options", "validations"), [({}, 4), ({"val_check_interval": 2}, 8)])
def test_the_file_has_the_values_of_a_logger(batches, options, validations):
    logger = Recording()
    fitted(batches, MetricsFile(), Extra(), logger=logger, **options)
    found, expected = rows_of(), logger.rows
    assert len(found) == len(expected) == 5 + validations + 4
    for row, logged in zip(found, expected, strict=True):
        assert row == pytest.approx(logged, nan_ok=True)
    assert {"train/loss", "lr", "val/mIoU", "of an epoch", "now and then"} <= set().union(*found)


@pytest.mark.parametrize("logger", [False, True])
def test_the_file_does_not_depend_on_the_logger(batches, tmp_path, logger):
    fitted(batches, MetricsFile(), logger=CSVLogger(tmp_path / "csv") if logger else False)
    steps = Counter(row["step"] for row in rows_of())
    assert steps == {3: 1, 4: 1, 6: 1, 8: 1, 9: 1, 12: 2, 15: 1, 16: 1}


def test_accumulated_batches_are_one_step(batches):
    logger = Recording()
    fitted(batches, MetricsFile(), logger=logger, accumulate_grad_batches=2)
    found = rows_of()
    assert [row["step"] for row in found] == [2, 3, 4, 6, 6, 8]
    for row, logged in zip(found, logger.rows, strict=True):
        assert row == pytest.approx(logged, nan_ok=True)


def test_no_step_waits_for_the_device_and_a_validation_once(batches):
    with simulated() as counted:
        trainer_of(
            max_epochs=2,
            log_every_n_steps=1,
            accelerator=Simulated(),
            strategy=SingleDeviceStrategy(device=DEVICE),
            callbacks=[MetricsFile()],
        ).fit(module_of(), batches, batches)
        waits = {place: number for (_, place), number in counted.waits.items() if "metrics_file" in place}
    assert sum(waits.values()) == 2
    assert len(rows_of()) == 8 + 2


class TestResume:
    def expected(self, loader, folder, monkeypatch):
        folder.mkdir()
        monkeypatch.chdir(folder)
        fitted(loader, MetricsFile(), Extra())
        text = Path("metrics.csv").read_text()
        folder.with_name("broken").mkdir()
        monkeypatch.chdir(folder.with_name("broken"))
        return text

    @pytest.mark.parametrize("epoch", [1, 2, 3])
    def test_a_continued_file_equals_that_of_an_uninterrupted_training(self, batches, tmp_path, monkeypatch, epoch):
        expected = self.expected(batches, tmp_path / "whole", monkeypatch)
        options = {"enable_checkpointing": True}
        kept = ModelCheckpoint(dirpath=".", filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        with pytest.raises(SystemExit):
            fitted(batches, MetricsFile(), Extra(), kept, Broken(epoch), **options)
        fitted(batches, MetricsFile(), Extra(), kept, ckpt_path="last.ckpt", **options)
        assert Path("metrics.csv").read_text() == expected

    def test_rows_after_the_checkpoint_are_dropped(self, batches, tmp_path, monkeypatch):
        expected = self.expected(batches, tmp_path / "whole", monkeypatch)
        kept = ModelCheckpoint(dirpath=".", filename="{step}", save_top_k=-1, save_on_train_epoch_end=True)
        fitted(batches, MetricsFile(), Extra(), kept, enable_checkpointing=True)
        assert Path("metrics.csv").read_text() == expected
        fitted(batches, MetricsFile(), Extra(), ckpt_path="step=8.ckpt")
        assert Path("metrics.csv").read_text() == expected

    def test_a_checkpoint_between_a_step_and_its_validation_counts_the_rows_before_it(self, batches):
        kept = ModelCheckpoint(dirpath=".", filename="{step}", save_top_k=-1, every_n_train_steps=3)
        fitted(batches, MetricsFile(), kept, enable_checkpointing=True)
        expected = rows_of()
        state = torch.load("step=12.ckpt", weights_only=True)["callbacks"]["MetricsFile"]
        assert [row["step"] for row in expected[: state["rows"]]] == [3, 4, 6, 8, 9, 12]
        assert "val/mIoU" not in expected[state["rows"] - 1]

    def test_a_new_training_starts_a_new_file(self, batches):
        for _ in range(2):
            fitted(batches, MetricsFile())
        assert len(rows_of()) == 5 + 4

    def test_an_unfinished_line_is_dropped(self, batches):
        kept = ModelCheckpoint(dirpath=".", filename="last", enable_version_counter=False)
        with pytest.raises(SystemExit):
            fitted(batches, MetricsFile(), kept, Broken(3), enable_checkpointing=True)
        with open("metrics.csv", "a") as file:
            file.write("1,8,0.1")
        fitted(batches, MetricsFile(), kept, enable_checkpointing=True, ckpt_path="last.ckpt")
        assert len(rows_of()) == 5 + 4

    def test_another_file_is_refused(self, batches):
        kept = ModelCheckpoint(dirpath=".", filename="last", enable_version_counter=False)
        fitted(batches, kept, enable_checkpointing=True, max_epochs=2)
        Path("metrics.csv").write_text("loss,accuracy\n1,2\n")
        with pytest.raises(ValueError, match=r"columns epoch, step, got loss, accuracy: .*metrics.csv; move it away"):
            fitted(batches, MetricsFile(), ckpt_path="last.ckpt")


def test_names_are_quoted_and_new_columns_leave_old_cells_empty(batches):
    class Named(Callback):
        def on_validation_epoch_end(self, trainer, module):
            module.log(f'sky, "{trainer.current_epoch}"', torch.tensor(1.0))

    fitted(batches, MetricsFile(), Named())
    with open("metrics.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line['sky, "3"'] for line in lines] == 8 * [""] + ["1.0"]
    assert all(None not in line for line in lines)


def test_an_exception_keeps_the_rows_before_it(batches):
    class Failing(Callback):
        def on_train_batch_end(self, trainer, *arguments):
            if trainer.global_step == 3:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fitted(batches, MetricsFile(), Failing())
    assert [row["step"] for row in rows_of()] == [3]


def test_a_trial_run_leaves_no_file(batches):
    trainer_of(fast_dev_run=True, callbacks=[MetricsFile()]).fit(module_of(), batches, batches)
    assert not Path("metrics.csv").exists()


def test_an_evaluation_does_not_change_the_file(batches):
    fitted(batches, MetricsFile())
    before = Path("metrics.csv").read_bytes()
    trainer_of(callbacks=[MetricsFile()]).validate(module_of(), batches, verbose=False)
    assert Path("metrics.csv").read_bytes() == before


@pytest.mark.slow
def test_only_the_first_of_two_processes_writes(batches):
    ended = in_two_processes(
        "from cpg_lightning.callbacks import MetricsFile\n"
        "trainer_of(**TWO, log_every_n_steps=3, callbacks=[MetricsFile()]).fit(module_of(), loader_of(), loader_of())"
    )
    assert ended.returncode == 0, ended.stderr
    assert [row["step"] for row in rows_of()] == [3, 4, 6, 8]
