"""The number of worker processes by the cores that there are for them."""

import os

import lightning as L
import pytest
import torch

from cpg_lightning import cores as module
from cpg_lightning.cores import available_cores
from cpg_lightning.data import (
    Augmentation,
    CamVidDataModule,
    CityscapesDataModule,
    COCOStuffDataModule,
    ShapesDataModule,
)
from cpg_lightning.data.workers import default_workers


@pytest.fixture
def cores(monkeypatch):
    """Sets the cores of this process's affinity, and no quota."""

    def set_affinity(number):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(number)))

    monkeypatch.setattr(module, "_quotas", lambda root: ())
    return set_affinity


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Writes the files of a machine of 64 cores on which this process is in some cgroup."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))

    def write(cgroup, files):
        for name, content in {"proc/self/cgroup": cgroup, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return write


def test_the_affinity_counts_not_the_machine(cores, tmp_path):
    cores(3)
    assert available_cores(tmp_path) == 3


def test_a_system_without_affinity_has_its_cores(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores(tmp_path) == 6


def test_the_share_of_a_study_counts(cores, monkeypatch, tmp_path):
    cores(16)
    monkeypatch.setenv("CPG_CORES", "4")
    assert available_cores(tmp_path) == 4


V2, V1 = "0::/a/b\n", "12:memory:/a\n4:cpu,cpuacct:/a/b\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        (V2, {"a/b/cpu.max": "400000 100000\n"}, 4),
        (V2, {"a/b/cpu.max": "250000 100000\n"}, 2),
        (V2, {"a/b/cpu.max": "50000 100000\n"}, 1),
        (V2, {"a/b/cpu.max": "max 100000\n"}, 64),
        (V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "500000 100000\n"}, 5),  # of a cgroup above
        (V2, {"cpu.max": "300000 100000\n"}, 3),  # in a container, whose cgroup's path is the host's
        (V2, {}, 64),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "600000\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, 6),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, 64),
        (V1, {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 4),
        (V1 + V2, {"cpu/cpu.cfs_quota_us": "700000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 7),
        ("", {"cpu.max": "300000 100000\n"}, 64),
    ],
)
def test_the_quota_of_a_cgroup_counts(machine, cgroup, files, expected):
    assert available_cores(machine(cgroup, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})) == expected


def test_a_quota_above_the_affinity_changes_nothing(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    assert available_cores(machine(V2, {"sys/fs/cgroup/cpu.max": "800000 100000"})) == 2


@pytest.mark.parametrize(
    ("number", "processes", "expected"), [(2, 1, 2), (64, 1, 8), (64, 8, 8), (30, 8, 3), (4, 8, 1), (1, 1, 1)]
)
def test_cores_are_divided_among_processes_up_to_eight_each(cores, number, processes, expected):
    cores(number)
    assert default_workers(processes) == expected


class TestDataModule:
    def loaders(self, data, trainer=None):
        data.trainer = trainer
        data.setup("fit")
        data.setup("predict")
        return [data.train_dataloader(), data.val_dataloader(), data.predict_dataloader()]

    def module(self, camvid, **options):
        return CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, **options)

    def test_every_loader_has_the_default(self, camvid, cores):
        cores(3)
        loaders = self.loaders(self.module(camvid))
        assert [loader.num_workers for loader in loaders] == [3, 3, 3]
        assert all(loader.persistent_workers for loader in loaders)

    def test_devices_of_the_trainer_share_the_cores(self, camvid, cores):
        cores(6)
        trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
        assert [loader.num_workers for loader in self.loaders(self.module(camvid), trainer)] == [3, 3, 3]

    def test_processes_of_torchrun_share_the_cores(self, camvid, cores, monkeypatch):
        cores(8)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert [loader.num_workers for loader in self.loaders(self.module(camvid))] == [2, 2, 2]

    @pytest.mark.parametrize("number", [0, 5])
    def test_a_given_number_is_kept(self, camvid, cores, number, caplog):
        cores(3)
        with caplog.at_level("INFO"):
            loaders = self.loaders(self.module(camvid, num_workers=number))
        assert [loader.num_workers for loader in loaders] == [number] * 3
        assert "num_workers" not in caplog.text

    def test_the_number_is_printed_once(self, camvid, cores, caplog):
        cores(3)
        with caplog.at_level("INFO", logger="lightning.pytorch"):
            self.loaders(self.module(camvid))
        said = [record.getMessage() for record in caplog.records if "num_workers" in record.getMessage()]
        assert said == [
            "num_workers: 3, from 3 cores and 1 training process on this machine; change it with --data.num_workers"
        ]

    @pytest.mark.parametrize("kind", [CityscapesDataModule, COCOStuffDataModule])
    def test_every_dataset_has_the_default(self, tmp_path, kind):
        assert kind(tmp_path, Augmentation((24, 32))).num_workers is None
        assert ShapesDataModule().num_workers is None

    def test_batches_come_from_the_default_number(self, camvid):
        data = self.module(camvid)
        data.setup("fit")
        batches = list(data.train_dataloader())
        assert len(batches) == 3
        assert all(batch["image"].dtype == torch.uint8 for batch in batches)
