"""A training in a SLURM job whose time ends: SIGUSR1, a request to start the job again, and the second start."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import BASE, EXPERIMENTS, PARTS
from lightning.pytorch.callbacks import Callback

from cpg_lightning.cli import main
from cpg_lightning.command import command
from cpg_lightning.runs.folder import RunFolder

SLOW = pytest.mark.slow
SHAPES = [
    "--data=ShapesDataModule",
    "--data.size=[32,48]",
    "--data.train_images=12",
    "--data.val_images=4",
    "--data.augmentation.crop_size=[24,32]",
    "--data.batch_size=4",
    "--data.eval_batch_size=1",
]
# Two epochs of three steps.
FIT = ["fit", *BASE, *PARTS, *SHAPES, "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"]
ALONE = [*FIT, "--data.num_workers=0", "--trainer.logger=false"]  # in this process
STATUS = 128 + signal.SIGUSR1
JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "cpg",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NODELIST": "127.0.0.1",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
SCONTROL = '#!/bin/sh\necho "$*" >> scontrol.txt\n'


class Signalled(Callback):
    """Sends SIGUSR1 to its process at a moment of a step, or in a validation, when the job starts for the first time."""

    only_watches = True

    def __init__(self, moment: str, step: int) -> None:
        self.moment, self.step = moment, step

    def act(self, moment, step):
        if (moment, step) == (self.moment, self.step) and "SLURM_RESTART_COUNT" not in os.environ:
            os.kill(os.getpid(), signal.SIGUSR1)

    def on_sanity_check_end(self, trainer, module):
        self.act("sanity check", trainer.global_step)

    def on_after_backward(self, trainer, module):
        self.act("backward", trainer.global_step + 1)

    def on_before_zero_grad(self, trainer, module, optimizer):
        self.act("zero_grad", trainer.global_step + 1)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking and batch_idx == 1:
            self.act("validation", trainer.global_step)


class Waits(Callback):
    """Waits in the middle of the second step until the test has sent a signal."""

    only_watches = True

    def on_after_backward(self, trainer, module):
        if trainer.global_step + 1 == 2:
            Path(f"waits-{trainer.global_rank}").touch()
            while not Path("sent").exists():
                time.sleep(0.01)


@pytest.fixture
def scontrol(monkeypatch):
    """Stands in for SLURM's command, and keeps its arguments in ``scontrol.txt``."""
    Path("bin").mkdir()
    Path("bin/scontrol").write_text(SCONTROL)
    Path("bin/scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path("bin").absolute()), os.environ["PATH"]]))


@pytest.fixture
def job(scontrol, monkeypatch):
    """This process is the only task of a job."""
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)


def ended(monkeypatch, *arguments):
    """The exit status of the command."""
    monkeypatch.setattr("sys.argv", ["cpg", *arguments])
    with pytest.raises(SystemExit) as end:
        command()
    return end.value.code


def requeued(folder, version=1):
    """The checkpoint that was written when the job was requeued."""
    return torch.load(folder / f"hpc_ckpt_{version}.ckpt", weights_only=True)


def metrics(folder):
    """The rows of ``metrics.csv`` with what was trained, without what was measured."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    kept = [{name: value for name, value in row.items() if not name.startswith("costs/")} for row in rows]
    return [row for row in kept if row.keys() - {"epoch", "step"}]


def check_same(folder, whole):
    """That a training was finished as one that was not disturbed."""
    assert RunFolder(folder).is_finished
    assert metrics(folder) == metrics(whole)
    assert [row["step"] for row in metrics(folder) if "train/loss" in row] == ["1", "2", "3", "4", "5", "6"]
    expected, got = (
        torch.load(each / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for each in (whole, folder)
    )
    assert all(torch.equal(got[name], value) for name, value in expected.items())


MOMENTS = [("zero_grad", 2, 2), ("backward", 1, 1), ("backward", 3, 3), ("validation", 3, 3), ("sanity check", 0, 1)]


@pytest.mark.parametrize(
    ("moment", "step", "written"), [MOMENTS[0], *(pytest.param(*each, marks=SLOW) for each in MOMENTS[1:])]
)
def test_a_requeued_job_equals_an_uninterrupted_one(monkeypatch, job, caplog, moment, step, written):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4700")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "11")
    main([*ALONE, "--output=whole"])
    signalled = ["--trainer.callbacks+=test_requeue.Signalled", f"--trainer.callbacks.moment={moment}"]
    arguments = [*ALONE, *signalled, f"--trainer.callbacks.step={step}"]
    with caplog.at_level("INFO"):
        assert ended(monkeypatch, *arguments) == STATUS
    assert f"ended by SIGUSR1 after step {written}" in caplog.text
    assert "continue with" not in caplog.text  # SLURM does
    assert Path("scontrol.txt").read_text() == "requeue 4700_11\n"
    (folder,) = Path("runs").iterdir()
    record = json.loads((folder / "experiment.json").read_text())
    assert requeued(folder)["global_step"] == written
    assert folder.name.endswith(f"-{record['id']}")

    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    caplog.clear()
    with caplog.at_level("INFO"):
        main(arguments)
    assert f"Restored all states from the checkpoint at {folder}/hpc_ckpt_1.ckpt" in caplog.text
    assert list(Path("runs").iterdir()) == [folder]
    assert json.loads((folder / "experiment.json").read_text()) == record
    assert Path("scontrol.txt").read_text() == "requeue 4700_11\n"
    check_same(folder, Path("whole"))


def environment(**variables):
    """Of a task of the job."""
    paths = os.pathsep.join([str(EXPERIMENTS.parent), *sys.path])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **JOB, **variables}


def start(arguments, **variables):
    """The real command in a session of its own, as a task of the job."""
    return subprocess.Popen(
        [sys.executable, "-m", "cpg_lightning", *arguments],
        env=environment(**variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def signal_in_the_second_step(tasks):
    """SIGUSR1 to all processes of the tasks, with those that load images, as SLURM does it."""
    while len(list(Path().glob("waits-*"))) < len(tasks):
        assert all(each.poll() is None for each in tasks), [each.communicate()[1] for each in tasks]
        time.sleep(0.05)
    for each in tasks:
        os.killpg(each.pid, signal.SIGUSR1)
    Path("sent").touch()


def statuses(tasks):
    """The exit status of each task, and what all have printed as errors."""
    shown = "".join(each.communicate(timeout=280)[1] for each in tasks)
    return [each.returncode for each in tasks], shown


@SLOW
def test_a_requeued_command_with_workers_and_weights_and_biases_equals_an_uninterrupted_one(scontrol):
    main([*ALONE, "--output=whole"])
    arguments = [*FIT, "--data.num_workers=2", "--trainer.callbacks+=test_requeue.Waits"]
    first = start(arguments)
    signal_in_the_second_step([first])
    status, shown = statuses([first])
    assert status == [STATUS], shown
    assert "Traceback" not in shown
    assert Path("scontrol.txt").read_text() == "requeue 4711\n"
    (folder,) = Path("runs").iterdir()
    assert requeued(folder)["global_step"] == 2
    identity = json.loads((folder / "experiment.json").read_text())["id"]

    status, shown = statuses([start(arguments, SLURM_RESTART_COUNT="1")])
    assert status == [0], shown
    assert list(Path("runs").iterdir()) == [folder]
    assert Path("scontrol.txt").read_text() == "requeue 4711\n"
    logged = [each.name for each in (folder / "wandb").glob("offline-run-*")]
    assert len(logged) == 2
    assert all(each.endswith(f"-{identity}") for each in logged)
    check_same(folder, Path("whole"))

    status, shown = statuses([start(arguments, SLURM_RESTART_COUNT="2")])
    assert status == [0]
    assert f"the run in {folder} is finished" in shown


@SLOW
def test_a_requeued_job_of_two_tasks_equals_an_uninterrupted_one(scontrol):
    two = ["--data.num_workers=0", "--trainer.logger=false", "--trainer.devices=2", "--trainer.strategy=ddp"]
    arguments = [*FIT, *two, "--trainer.sync_batchnorm=false", "--trainer.callbacks+=test_requeue.Waits"]
    job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}

    def tasks(arguments, **variables):
        ranks = [{"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]
        return [start(arguments, **job, **rank, **variables) for rank in ranks]

    Path("sent").touch()
    assert statuses(tasks([*arguments, "--output=whole"]))[0] == [0, 0]
    for each in ("sent", "waits-0", "waits-1"):
        Path(each).unlink()
    first = tasks(arguments)
    signal_in_the_second_step(first)
    status, shown = statuses(first)
    assert status[0] == STATUS, shown
    assert Path("scontrol.txt").read_text() == "requeue 4711\n"
    (folder,) = Path("runs").iterdir()
    assert requeued(folder)["global_step"] == 2
    status, shown = statuses(tasks(arguments, SLURM_RESTART_COUNT="1"))
    assert status == [0, 0], shown
    assert list(Path("runs").iterdir()) == [folder]
    check_same(folder, Path("whole"))
