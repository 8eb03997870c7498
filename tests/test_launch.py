"""The scripts that start a training in several processes: by torchrun, and in a SLURM job."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ARGUMENTS, EXPERIMENTS

LAUNCH = EXPERIMENTS / "launch"
SHORT = ["--trainer.max_epochs=1", "--trainer.strategy=ddp", "--trainer.sync_batchnorm=false", "--trainer.logger=false"]
# What srun does with a program: as many processes, each with its number. This stands in for a cluster.
SRUN = """#!/bin/sh
shift
for rank in 0 1; do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NODEID=0 "$@" &
  pids="${pids-} $!"
done
for pid in $pids; do wait "$pid"; done
"""
JOB = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NUM_NODES": "1", "SLURM_NNODES": "1"}


def start(script, *arguments, **variables):
    """Runs a script, and gives what it prints."""
    paths = os.pathsep.join([str(EXPERIMENTS.parent), str(Path(__file__).parent)])
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    environment["PATH"] = os.pathsep.join([str(Path("bin").absolute()), str(bin_folder), os.environ["PATH"]])
    result = subprocess.run(
        [str(LAUNCH / script), *arguments], capture_output=True, text=True, check=False, env=environment
    )
    return result.returncode, result.stdout + result.stderr


def check_finished(shown):
    """That two processes have trained one network to its end."""
    assert "Starting with 2 processes" in shown
    assert json.loads(Path("run/summary.json").read_text())["epochs"] == 1
    with Path("run/metrics.csv").open() as file:
        assert any(row["val/mIoU"] for row in csv.DictReader(file))


@pytest.mark.slow
def test_torchrun_trains_on_two_processes(camvid):
    status, shown = start("torchrun.sh", *ARGUMENTS, *SHORT, "--output=run", PROCESSES="2")
    assert status == 0, shown
    check_finished(shown)


@pytest.mark.slow
def test_a_slurm_job_trains_on_two_processes(camvid):
    """As far as a shell can: sbatch's variables are set, and a few lines stand in for srun."""
    Path("bin").mkdir()
    Path("bin/srun").write_text(SRUN)
    Path("bin/srun").chmod(0o755)
    job = {**JOB, "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "cpg", "SLURM_NODELIST": "127.0.0.1"}
    status, shown = start("fit.sbatch", *ARGUMENTS, *SHORT, "--output=run", **job)
    assert status == 0, shown
    check_finished(shown)


def test_torchrun_without_a_gpu_names_the_variable_for_cpus():
    status, shown = start("torchrun.sh", PROCESSES="0")
    assert status == 2
    assert shown.startswith("expected a GPU, got none; on a CPU: PROCESSES=2 ")


def test_the_job_requests_one_task_per_gpu_before_its_first_command():
    """sbatch reads its options up to the first line that is no comment."""
    text = (LAUNCH / "fit.sbatch").read_text()
    comments = text[: text.index("\nset -eu")]
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", comments, re.MULTILINE))
    assert text.count("#SBATCH") == comments.count("#SBATCH") == 8
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert all(line.startswith("#") for line in comments.splitlines())
