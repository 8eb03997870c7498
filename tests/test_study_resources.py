"""GPUs and cores are divided among runs that go on at the same time."""

import os

import pytest

from cpg_lightning.studies.resources import gpus, shares


def test_one_run_at_a_time_gets_everything():
    assert shares(1) == [{}]


def test_the_users_number_of_threads_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert "OMP_NUM_THREADS" not in shares(2)[0]


@pytest.mark.parametrize(
    ("visible", "expected"), [("0,1", ["0", "1"]), ("", []), ("-1", []), ("2,-1,3", ["2"]), ("MIG-a", ["MIG-a"])]
)
def test_visible_gpus_are_counted_as_cuda_does(monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == expected


def test_gpus_are_found_with_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: a)'; echo '  MIG 1g'; echo 'GPU 1: H100 (UUID: b)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus() == ["0", "1"]
    monkeypatch.setenv("PATH", "")
    assert gpus() == []


def test_runs_share_gpus_if_there_are_fewer_gpus_than_runs(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares(3)] == ["4", "6", "4"]
