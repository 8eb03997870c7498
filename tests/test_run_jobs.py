"""Runs in jobs of SLURM and torchrun, and of W&B's agent."""

import os
import shutil
from pathlib import Path

import pytest
from commands import JOB, experiment, fit

from cpg_lightning.runs.checkpoint_io import PARTIAL
from cpg_lightning.runs.folder import RunFolder


class TestJobs:
    @pytest.fixture
    def job(self, monkeypatch):
        for name, value in JOB.items():
            monkeypatch.setenv(name, value)

    def test_a_restarted_job_continues_in_its_folder(self, camvid, job):
        fit("--trainer.max_epochs=1")
        (folder,) = Path("runs").iterdir()
        written = (folder / "summary.json").stat().st_mtime_ns
        fit("--trainer.max_epochs=1")
        assert list(Path("runs").iterdir()) == [folder]
        assert (folder / "summary.json").stat().st_mtime_ns == written

    def test_a_requeued_job_continues_from_its_last_checkpoint(self, camvid, job):
        fit("--trainer.max_epochs=1")
        (folder,) = Path("runs").iterdir()
        requeued = folder / "hpc_ckpt_1.ckpt"
        requeued.write_bytes((folder / "checkpoints/last.ckpt").read_bytes())
        assert RunFolder(folder).newest_checkpoint() == requeued
        os.utime(requeued, (0, 0))
        assert RunFolder(folder).newest_checkpoint() in (folder / "checkpoints").iterdir()

    def test_two_seeds_in_one_job_are_two_runs(self, camvid, job):
        for seed in (0, 1):
            fit("--trainer.max_epochs=1", f"--seed_everything={seed}")
        assert len(list(Path("runs").iterdir())) == 2

    @pytest.mark.parametrize(
        "option",
        ["--model.criterion.cpg_weight=0.5", "--trainer.max_epochs=2", "--trainer.callbacks+=EMAWeightAveraging"],
    )
    def test_two_configurations_in_one_job_are_two_runs(self, camvid, job, option):
        for options in ([], [option]):
            fit("--trainer.max_epochs=1", *options)
        folders = list(Path("runs").iterdir())
        assert len({experiment(folder)["key"] for folder in folders}) == 2
        assert all(folder.name.endswith(f"-{experiment(folder)['id']}") for folder in folders)

    def test_two_folders_in_one_job_are_two_runs(self, camvid, job):
        for folder in ("first", "second"):
            fit("--trainer.max_epochs=1", f"--output={folder}")
        assert experiment("first")["id"] != experiment("second")["id"]

    def test_the_checkpoint_of_a_requeued_job_belongs_to_its_run(self, camvid, job):
        fit("--trainer.max_epochs=1")
        (folder,) = Path("runs").iterdir()
        run = RunFolder.of_checkpoint(folder / "hpc_ckpt_1.ckpt")
        assert run is not None
        assert run.path == folder.absolute()

    def test_a_job_that_was_killed_while_it_wrote_its_first_checkpoint_starts_over(self, camvid, job):
        fit("--trainer.max_epochs=1")
        (folder,) = Path("runs").iterdir()
        shutil.rmtree(folder / "checkpoints")
        (folder / "summary.json").unlink()
        (folder / PARTIAL).write_bytes(b"a part")
        with pytest.warns(UserWarning, match="has no checkpoint in checkpoints yet, and starts again"):
            fit("--trainer.max_epochs=1")
        assert RunFolder(folder).is_finished

    def test_a_restart_by_torchrun_requires_output(self, camvid, monkeypatch):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        with pytest.raises(ValueError, match="expected --output FOLDER where torchrun restarts a training"):
            fit()

    def test_a_run_of_an_agent_has_the_agents_id_and_continues(self, camvid, monkeypatch):
        monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
        monkeypatch.setenv("WANDB_RUN_ID", "r9")
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit("--trainer.callbacks+=tiny.Broken", "--trainer.callbacks.epoch=1")
        (folder,) = Path("runs").iterdir()
        assert folder.name == "camvid-tiny-ce+cpg-seed0-r9"
        assert experiment(folder)["id"] == "r9"
        fit()
        assert list(Path("runs").iterdir()) == [folder]
        assert RunFolder(folder).summary()["epochs"] == 2
        with pytest.raises(ValueError, match="images_a_step is 3 instead of 2"):
            fit("--data.batch_size=3")
