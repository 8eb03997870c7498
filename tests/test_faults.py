"""Faults from outside in the middle of a training: one message that names what is lost, and a training that can go on."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from commands import ARGUMENTS, fails
from lightning.pytorch.callbacks import Callback

from cpg_lightning.cli import main
from cpg_lightning.runs.folder import RunFolder

FIT = ["fit", *ARGUMENTS, "--trainer.logger=false"]
IMAGE = "camvid/train/train_004.png"


class Fault(Callback):
    """Lets something happen when the second epoch begins."""

    only_watches = True

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            self.happen()


class DiskGone(Fault):
    """The folder of the images is there no more."""

    def happen(self):
        Path("camvid/train").rename("elsewhere")


class Damage(Fault):
    """An image is cut short."""

    def happen(self):
        content = Path(IMAGE).read_bytes()
        Path("whole.png").write_bytes(content)
        Path(IMAGE).write_bytes(content[: len(content) // 2])


class WorkerKilled(Callback):
    """The system kills a process that loads images, as it does for want of memory."""

    only_watches = True

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 0:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)


def broken(monkeypatch, capsys, fault, *options):
    """The message of a training with a fault, whose checkpoint is looked at."""
    callback = f"--trainer.callbacks+=test_faults.{fault}"
    shown = fails(monkeypatch, capsys, *FIT, "--output=first", callback, *options)
    assert "Traceback" not in shown
    assert torch.load("first/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert not RunFolder("first").is_finished
    return shown


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_lost_disk_is_one_error_and_the_training_continues_later(camvid, monkeypatch, capsys, num_workers):
    shown = broken(monkeypatch, capsys, "DiskGone", f"--data.num_workers={num_workers}")
    assert "camvid/train/train_00" in shown
    Path("elsewhere").rename("camvid/train")
    main([*FIT, "--output=first"])
    assert RunFolder("first").is_finished


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_image_that_becomes_unreadable_is_one_error_and_the_training_continues_later(
    camvid, monkeypatch, capsys, num_workers
):
    shown = broken(monkeypatch, capsys, "Damage", f"--data.num_workers={num_workers}")
    assert IMAGE in shown
    Path("whole.png").rename(IMAGE)
    main([*FIT, "--output=first"])
    assert RunFolder("first").is_finished


def test_a_killed_worker_is_one_error_and_the_training_continues_later(camvid, monkeypatch, capsys):
    shown = broken(monkeypatch, capsys, "WorkerKilled", "--data.num_workers=2")
    assert "the operating system killed process " in shown
    assert "Use fewer workers (--data.num_workers)" in shown
    main([*FIT, "--output=first"])
    assert RunFolder("first").is_finished
