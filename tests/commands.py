"""Command lines that several tests start from, and what a command that fails says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cpg_lightning.cli import main
from cpg_lightning.command import command

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
BASE = ["--config", str(EXPERIMENTS / "base.yaml"), "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
PARTS = [
    "--model.network=tiny.Tiny",
    f"--model.criterion={EXPERIMENTS}/criteria/ce_cpg.yaml",
    "--model.optimizer=torch.optim.SGD",
    "--model.optimizer.lr=0.1",
]
CAMVID = [
    "--data=CamVidDataModule",
    "--data.augmentation.crop_size=[24,32]",
    "--data.batch_size=2",
    "--data.num_workers=0",
]
ARGUMENTS = [*BASE, *PARTS, *CAMVID, "--data.root=camvid", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"]
FIT = [*ARGUMENTS, "--trainer.logger=false"]
JOB = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "77"}  # a job of SLURM


def fit(*options):
    """A training without a logger."""
    return main(["fit", *FIT, *options])


def experiment(folder):
    """The record of a run."""
    return json.loads((Path(folder) / "experiment.json").read_text())


def in_a_process(*arguments):
    """What the command prints, run as a user runs it."""
    result = subprocess.run(
        [sys.executable, "-m", "cpg_lightning", *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def fails(monkeypatch, capsys, *arguments):
    """The message and the exit status of a command that fails."""
    monkeypatch.setattr("sys.argv", ["cpg", *arguments])
    with pytest.raises(SystemExit) as end:
        command()
    assert end.value.code != 0
    return str(end.value.code) if isinstance(end.value.code, str) else capsys.readouterr().err


def random_weights(cell):
    """Options without which the networks of the paper's grid would fetch ImageNet weights."""
    if "paper" not in cell.study:
        return []
    return ["--model.network.pretrained=false" if "hrnet" in cell.name else "--model.network.weights_backbone=null"]
