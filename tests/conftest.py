"""Tiny datasets in the official layouts, and a place where a run leaves no trace."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

# The main process of pytest-xdist imports this module too, but runs no test. It starts its workers sooner if only
# functions import torch.
if TYPE_CHECKING:
    import torch
    from simulated_device import SimulatedDevice

# Tests run in parallel. A process without threads of OpenMP can also be forked: its copies would wait for them forever.
# Lightning sets another number for several processes unless the variable is set.
os.environ["OMP_NUM_THREADS"] = "1"

WANDB_FOLDERS = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")


def pytest_collection_finish() -> None:
    """Exclude the imported modules from garbage collection, because they are never freed."""
    gc.freeze()


def alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder, with Weights & Biases offline and without a key, as on a fresh machine."""
    from torch import distributed

    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["cpg"])
    # A distributed run in this process leaves the second line and its process group, which another would take for its own.
    ours = ("WANDB_API_KEY", "WANDB_MODE", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    for name in (*ours, "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name in WANDB_FOLDERS:
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("NETRC", str(folder / "no netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    if distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    import wandb

    alone(tmp_path, monkeypatch)
    yield
    if wandb.run is not None:
        wandb.finish()


def write_camvid(root: Path, train: int = 6, val: int = 3, test: int = 2, size: tuple[int, int] = (36, 48)) -> Path:
    """CamVid's layout: random blocks of classes in their colours, with some void."""
    from cpg_lightning.data import CamVidDataModule

    rng = np.random.default_rng(0)
    palette = np.array([*CamVidDataModule.classes.palette, (0, 0, 0)], dtype=np.uint8)
    for split, number in (("train", train), ("val", val), ("test", test)):
        images, labels = root / split, root / f"{split}annot"
        images.mkdir(parents=True)
        labels.mkdir()
        for index in range(number):
            blocks = rng.integers(0, 12, (size[0] // 12, size[1] // 12))
            label = blocks.repeat(12, axis=0).repeat(12, axis=1).astype(np.uint8)
            Image.fromarray(palette[label]).save(images / f"{split}_{index:03d}.png")
            Image.fromarray(label).save(labels / f"{split}_{index:03d}.png")
    return root


@contextmanager
def in_new_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new folder with a tiny CamVid as the current folder, for a run that several tests use."""
    folder = tmp_path_factory.mktemp("shared")
    write_camvid(folder / "camvid")
    with pytest.MonkeyPatch.context() as monkeypatch:
        alone(folder, monkeypatch)
        yield folder


@pytest.fixture
def camvid(tmp_path):
    """A tiny CamVid: 6 training, 3 validation and 2 test images of 36x48 pixels."""
    return write_camvid(tmp_path / "camvid")


@pytest.fixture
def batches():
    """Four batches of two images."""
    from steps import loader_of  # only here: it imports this module

    return loader_of()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images."""
    if "CPG_LIGHTNING_DATA" not in os.environ:
        pytest.skip("CPG_LIGHTNING_DATA names no folder of real images")
    return Path(os.environ["CPG_LIGHTNING_DATA"])


def simulated() -> SimulatedDevice:
    """The simulated device. A process with a GPU cannot have it; there the test is skipped."""
    import torch
    from simulated_device import SimulatedDevice

    if torch.cuda.is_available():
        pytest.skip("torch would not find the GPU beside the simulated device")
    return SimulatedDevice()


@pytest.fixture(scope="session")
def device() -> Iterator[torch.device]:
    """The device of the tests of networks, criteria and metrics: ``CPG_LIGHTNING_DEVICE``, by default the CPU.

    ``simulated`` computes on the CPU and finds mixes of devices.
    """
    import torch

    name = os.environ.get("CPG_LIGHTNING_DEVICE", "cpu")
    with simulated() if name == "simulated" else nullcontext():
        try:
            found = torch.zeros((), dtype=torch.float64, device=name).device
        except (RuntimeError, AssertionError, TypeError) as error:
            pytest.fail(
                f"expected CPG_LIGHTNING_DEVICE to be a device of this machine with float64, got {name!r}: {error}"
            )
        if found.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # TF32 has ten bits, too few for the tolerances
        yield found


@pytest.fixture
def on_device(device: torch.device) -> Iterator[torch.device]:
    """Tensors and modules are made on the device."""
    # The CPU is the default device. A context would slow down each call.
    with nullcontext() if device.type == "cpu" else device:
        yield device
