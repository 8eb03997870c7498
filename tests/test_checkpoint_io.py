"""A checkpoint is replaced whole or not at all: on a full disk, and wherever a process is killed."""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO
from steps import module_of
from tiny import trainer_of

from cpg_lightning.callbacks import AtomicCheckpoints
from cpg_lightning.runs import checkpoint_io
from cpg_lightning.runs.checkpoint_io import AtomicCheckpointIO

WEIGHT = torch.arange(20_000.0)


class FullDisk:
    """A file on a disk that has room for so many bytes, and takes what fits."""

    def __init__(self, file, room, error):
        self.file, self.room, self.error = file, room, error

    def __enter__(self):
        return self

    def __exit__(self, *arguments):
        self.file.close()

    def write(self, content):
        if not self.room:
            raise self.error
        written = self.file.write(content[: self.room])
        self.room -= written
        return written

    def fileno(self):
        return self.file.fileno()


class OnFullDisk(AtomicCheckpointIO):
    """Writes to a disk that has room for so many bytes."""

    def __init__(self, room, error=None):
        super().__init__()
        self.room, self.error = room, error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self, path):
        return FullDisk(super()._open(path), self.room, self.error)


def checkpoint_of(step):
    return {"state_dict": {"weight": step * WEIGHT}, "global_step": step}


def step_of(path):
    """The step of a checkpoint that is whole."""
    checkpoint = torch.load(path, weights_only=True)
    assert torch.equal(checkpoint["state_dict"]["weight"], checkpoint["global_step"] * WEIGHT)
    return checkpoint["global_step"]


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A checkpoint, alone in its folder; others are written in parts of 10,000 bytes."""
    monkeypatch.setattr(checkpoint_io, "CHUNK", 10_000)
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint_of(1), path)
    return path


def test_a_checkpoint_replaces_the_previous_one(path):
    AtomicCheckpointIO().save_checkpoint(checkpoint_of(2), path)
    assert step_of(path) == 2
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 2
    assert os.listdir(path.parent) == ["last.ckpt"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads names of open files from Linux")
def test_the_file_is_flushed_before_renaming_and_the_folder_after(path, monkeypatch):
    events, fsync, replace = [], os.fsync, Path.replace

    def synchronised(number):
        events.append(os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    def replaced(source, target):
        events.append((str(source), str(target)))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synchronised)
    monkeypatch.setattr(Path, "replace", replaced)
    AtomicCheckpointIO().save_checkpoint(checkpoint_of(2), path)
    partial = str(path.with_name(".checkpoint.partial"))
    assert events == [partial, (partial, str(path)), str(path.parent)]


class TestFullDisk:
    def test_the_previous_checkpoint_stays_wherever_the_disk_is_full(self, path):
        size = path.stat().st_size
        for room in [*range(0, size, 10_000), 1, 10_001, size - 1]:
            with pytest.raises(OSError, match="No space left on device") as error:
                OnFullDisk(room).save_checkpoint(checkpoint_of(1), path)
            assert error.value.errno == errno.ENOSPC
            assert step_of(path) == 1
            assert os.listdir(path.parent) == ["last.ckpt"]
        OnFullDisk(size).save_checkpoint(checkpoint_of(1), path)  # it ends no earlier than it has to

    def test_the_error_names_the_file_its_size_and_the_free_space(self, path, monkeypatch):
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=45_000))
        with pytest.raises(OSError) as error:
            OnFullDisk(0).save_checkpoint(checkpoint_of(2), path)
        assert re.sub(r"needs 0\.1 MB; 0\.0 MB", "needs N; M", str(error.value)) == (
            f"[Errno 28] expected to write the checkpoint last.ckpt in {path.parent}, which needs N; M are free, got: No space "
            "left on device. A previous file of this name is unchanged. Make room, or choose a folder on "
            "another disk"
        )

    def test_an_interruption_leaves_no_partial_file(self, path):
        with pytest.raises(KeyboardInterrupt):
            OnFullDisk(15_000, KeyboardInterrupt()).save_checkpoint(checkpoint_of(2), path)
        assert step_of(path) == 1
        assert os.listdir(path.parent) == ["last.ckpt"]

    def test_a_file_in_place_of_the_folder_is_named(self, path):
        with pytest.raises(OSError, match=r"expected to write the checkpoint a\.ckpt in .*last\.ckpt"):
            AtomicCheckpointIO().save_checkpoint(checkpoint_of(2), path / "a.ckpt")

    @pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system of Linux")
    def test_a_full_file_system_keeps_the_previous_checkpoint(self, tmp_path):
        with mounted(tmp_path / "small", "128k") as folder:
            AtomicCheckpointIO().save_checkpoint(checkpoint_of(1), folder / "last.ckpt")
            with pytest.raises(OSError, match=r"needs 0\.1 MB; 0\.0 MB are free, got: No space left on device"):
                AtomicCheckpointIO().save_checkpoint(checkpoint_of(2), folder / "last.ckpt")
            assert step_of(folder / "last.ckpt") == 1
            assert os.listdir(folder) == ["last.ckpt"]


@contextmanager
def mounted(folder, size):
    """A file system of its own in memory, where the test may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


OVERWRITING = """
import itertools, sys, torch
from cpg_lightning.runs import checkpoint_io
checkpoint_io.CHUNK = 10_000
weight = torch.arange(20_000.0)
for step in itertools.count(1):
    checkpoint = {"state_dict": {"weight": step * weight}, "global_step": step}
    checkpoint_io.AtomicCheckpointIO().save_checkpoint(checkpoint, sys.argv[1])
    print(step, flush=True)
"""


def killed(path, moment):
    """Kills a process that writes checkpoints over each other, some seconds after the first; gives its last whole one."""
    command = [sys.executable, "-c", OVERWRITING, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split()
    return int(lines[-1]) if lines else 1


def is_readable_after_a_kill(path, moment):
    said = killed(path, moment)
    assert step_of(path) in (said, said + 1)
    assert set(os.listdir(path.parent)) <= {"last.ckpt", ".checkpoint.partial"}


def test_a_kill_leaves_a_whole_checkpoint_and_its_partial_file_is_overwritten(path):
    is_readable_after_a_kill(path, 0.02)
    path.with_name(".checkpoint.partial").write_bytes(b"the rest of a longer one" * 10_000)
    AtomicCheckpointIO().save_checkpoint(checkpoint_of(3), path)
    assert step_of(path) == 3
    assert os.listdir(path.parent) == ["last.ckpt"]


@pytest.mark.slow
def test_twenty_kills_on_another_file_system(tmp_path):
    moments = random.Random(0)
    with mounted(tmp_path / "other", "8m") as folder:
        for _ in range(20):
            is_readable_after_a_kill(folder / "last.ckpt", moments.uniform(0, 0.1))


class TestTrainer:
    def fitted(self, batches, *callbacks, **options):
        trainer = trainer_of(enable_checkpointing=True, callbacks=[AtomicCheckpoints(), *callbacks], **options)
        trainer.fit(module_of(lr_schedule="constant"), batches)
        return trainer

    def test_no_checkpoint_uses_the_systems_temporary_folder(self, batches, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", "/there/is/no/such/folder")
        with pytest.raises(OSError, match="/there/is/no/such/folder"):
            trainer_of(max_epochs=1, enable_checkpointing=True, callbacks=[ModelCheckpoint()]).fit(module_of(), batches)
        kept = ModelCheckpoint(dirpath="kept", filename="best", save_last=True, every_n_train_steps=2)
        trainer = self.fitted(batches, kept)
        trainer.save_checkpoint("by hand.ckpt")
        for path in ("kept/best.ckpt", "kept/last.ckpt", "by hand.ckpt"):
            assert torch.load(path, weights_only=True)["global_step"] == 8

    def test_a_training_continues_from_such_a_checkpoint(self, batches):
        kept = ModelCheckpoint(dirpath="kept", filename="last", enable_version_counter=False)
        self.fitted(batches, kept)
        trainer = trainer_of(max_epochs=3, callbacks=[AtomicCheckpoints()])
        trainer.fit(module_of(lr_schedule="constant"), batches, ckpt_path="kept/last.ckpt")
        assert trainer.global_step == 12

    def test_a_link_as_last_checkpoint_is_refused(self, batches):
        linked = ModelCheckpoint(dirpath="kept", save_last="link")
        with pytest.raises(ValueError, match=r"got save_last=\"link\".*set save_last to true"):
            self.fitted(batches, linked)
        assert not Path("kept").exists()

    def test_a_plugin_of_the_user_is_kept(self, batches):
        class Own(TorchCheckpointIO):
            pass

        own = Own()
        assert self.fitted(batches, plugins=[own]).strategy.checkpoint_io is own
