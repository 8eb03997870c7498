"""A training that is stopped by a signal ends after its step and leaves a checkpoint to continue from."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ARGUMENTS
from lightning.pytorch.callbacks import Callback
from steps import in_two_processes
from tiny import Tiny, trainer_of

from cpg_lightning.callbacks import StopOnSignal
from cpg_lightning.cli import main
from cpg_lightning.command import command
from cpg_lightning.data import Augmentation, CamVidDataModule
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule
from cpg_lightning.runs.place import arguments_to_continue

FIT = ["fit", *ARGUMENTS, "--trainer.logger=false"]


class Signalled(Callback):
    """Sends signals to its process in the middle of a step, or after some batches of a validation."""

    only_watches = True

    def __init__(self, number: int, step: int = 0, batch: int = -1, times: int = 1, group: bool = False) -> None:
        self.number, self.step, self.batch, self.times = number, step, batch, times
        self.send = os.killpg if group else os.kill

    def on_after_backward(self, trainer, module):
        if trainer.global_step + 1 == self.step:
            for _ in range(self.times):
                self.send(os.getpid(), self.number)
            self.times = 0

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking and batch_idx == self.batch:
            self.send(os.getpid(), self.number)


def signalled(**options):
    name = "--trainer.callbacks"
    return [f"{name}+=test_stopping.Signalled", *(f"{name}.{key}={value}" for key, value in options.items())]


@pytest.fixture(autouse=True)
def interruptible():
    """SIGINT is not ignored, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ended(monkeypatch, *arguments):
    """The exit status of the command."""
    monkeypatch.setattr("sys.argv", ["cpg", *arguments])
    with pytest.raises(SystemExit) as end:
        command()
    return end.value.code


def last(folder):
    return torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_training_after_its_step_and_prints_how_to_continue(
    camvid, monkeypatch, caplog, number, status
):
    main([*FIT, "--output=whole"])
    with caplog.at_level("INFO"):
        assert ended(monkeypatch, *FIT, "--output=a folder", *signalled(number=int(number), step=2)) == status
    assert last("a folder")["global_step"] == 2
    assert not Path("a folder/summary.json").exists()
    (said,) = [each.getMessage() for each in caplog.records if "continue with" in each.getMessage()]
    again = shlex.split(said.partition("continue with: ")[2])
    assert again[:2] == ["cpg", "fit"]
    main(again[1:])
    assert last("a folder")["global_step"] == 6
    for name, value in last("whole")["state_dict"].items():
        torch.testing.assert_close(last("a folder")["state_dict"][name], value, msg=name)


def test_a_signal_ends_a_validation_after_its_batch(camvid, monkeypatch):
    assert ended(monkeypatch, *FIT, "--output=first", *signalled(number=15, batch=0)) == 143
    progress = last("first")["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["current"]
    assert (last("first")["global_step"], progress["processed"]) == (3, 1)


def test_accumulated_batches_are_one_step(camvid, monkeypatch):
    options = ["--output=first", "--data.batch_size=2", "--trainer.accumulate_grad_batches=2"]
    assert ended(monkeypatch, *FIT, *options, *signalled(number=15, step=2)) == 143
    assert last("first")["global_step"] == 2
    assert last("first")["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] == 4


def test_the_printed_command_replaces_folder_and_checkpoint(tmp_path):
    arguments = [
        "fit",
        "--config",
        "a.yaml",
        "--output",
        "old",
        "--ckpt_path=old/last.ckpt",
        "--trainer.max_epochs",
        "9",
    ]
    expected = ["fit", "--config", "a.yaml", "--trainer.max_epochs", "9", "--output", "new"]
    assert arguments_to_continue(arguments, Path("new")) == expected


def test_a_run_without_a_folder_is_continued_in_the_one_it_was_given(camvid, monkeypatch, caplog):
    with caplog.at_level("INFO"):
        assert ended(monkeypatch, *FIT, *signalled(number=15, step=1)) == 143
    (folder,) = Path("runs").iterdir()
    assert f"--output {folder}" in caplog.text


def test_signals_are_not_handled_in_python(camvid):
    with pytest.raises(SystemExit):  # what Lightning makes of a KeyboardInterrupt
        main([*FIT, "--output=first", *signalled(number=2, step=2)])
    assert not Path("first/checkpoints/last.ckpt").exists()


def test_the_former_handlers_are_restored(camvid, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    ended(monkeypatch, *FIT, "--output=first", *signalled(number=15, step=2))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_ctrl_c_outside_of_a_training_shows_no_traceback(camvid, monkeypatch):
    main([*FIT, "--output=first"])
    arguments = ["--run=first", *signalled(number=2, batch=0)]
    assert ended(monkeypatch, "validate", *arguments) == 130


def in_a_group(*arguments):
    """Runs the command in a process group of its own."""
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import os; os.setpgrp(); import signal; signal.signal(2, signal.default_int_handler); from cpg_lightning.command import command; command()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=settings, timeout=300
    )


@pytest.mark.slow
def test_a_signal_to_the_whole_group_kills_no_worker(camvid):
    options = ["--data.num_workers=2", *signalled(number=15, step=2, group="true")]
    result = in_a_group(*FIT, "--output=first", *options)
    assert result.returncode == 143, result.stderr
    assert "Traceback" not in result.stderr
    assert "killed by signal" not in result.stderr
    assert last("first")["global_step"] == 2


def test_workers_ignore_signals_with_any_start_method(camvid, monkeypatch):
    data = CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0)
    trainer = trainer_of(callbacks=[StopOnSignal()], max_epochs=0)
    trainer.fit(SegmentationModule(Tiny(11), CrossEntropyCPGLoss(), data.classes), datamodule=data)
    ignored = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: ignored.append((number, handler)))
    data.loader_options()["worker_init_fn"](0)
    assert ignored == [(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]


def test_a_second_signal_does_not_wait(camvid):
    result = in_a_group(*FIT, "--output=first", *signalled(number=2, step=2, times=2))
    assert result.returncode == 130
    assert not Path("first/checkpoints/last.ckpt").exists()
    assert "a second signal does not wait" in result.stderr


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_after_the_same_step():
    result = in_two_processes(
        "import os, torch\n"
        "from lightning.pytorch.callbacks import Callback\n"
        "from cpg_lightning.callbacks import StopOnSignal\n"
        "class Told(Callback):\n"
        "    def on_after_backward(self, trainer, module):\n"
        "        if trainer.global_step == 1 and trainer.global_rank == 1:\n"
        "            os.kill(os.getpid(), 15)\n"
        "trainer_of(callbacks=[StopOnSignal(), Told()], enable_checkpointing=True, **TWO).fit(module_of(), loader_of())\n"
    )
    assert result.returncode != 0
    assert last(".")["global_step"] == 2
