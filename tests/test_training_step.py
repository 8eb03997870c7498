"""The training step on an accelerator, in half precision, in parts, with deterministic algorithms and compiled."""

from collections import Counter

import lightning as L
import pytest
import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy
from simulated_device import DEVICE, SimulatedDevice
from tiny import Tiny
from torch.utils.data import DataLoader

from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule

CLASSES = 5


def module_of(network=None, **options):
    """A module whose network has an auxiliary output, with the same weights each time."""
    torch.manual_seed(0)
    return SegmentationModule(network or Tiny(CLASSES, aux_loss=True), CrossEntropyCPGLoss(), CLASSES, **options)


def trainer_of(**options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(**{"accelerator": "cpu", "max_epochs": 1, "enable_checkpointing": False, **quiet, **options})


@pytest.fixture
def batches():
    """Four batches of two images."""
    torch.manual_seed(0)
    masks = torch.randint(0, CLASSES, (4, 2, 4, 6)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    images = torch.randint(0, 256, (4, 2, 3, 32, 48), dtype=torch.uint8)
    batches = [{"image": image, "mask": mask, "name": ["a", "b"]} for image, mask in zip(images, masks, strict=True)]
    return DataLoader(batches, batch_size=None)


class Simulated(Accelerator):
    """The simulated device, for a Trainer."""

    parse_devices = staticmethod(lambda devices: devices)
    get_parallel_devices = staticmethod(lambda devices: [DEVICE])
    auto_device_count = staticmethod(lambda: 1)
    is_available = staticmethod(lambda: True)
    name = staticmethod(lambda: "simulated")

    def setup_device(self, device):
        pass

    def get_device_stats(self, device):
        return {}

    def teardown(self):
        pass


class Waits(Callback):
    """The places where the host waits in each step, before Lightning reads the loss for its progress bar."""

    def __init__(self, counted):
        self.counted = counted
        self.steps = []

    def on_train_batch_start(self, *args):
        self.counted.reset()

    def on_train_batch_end(self, *args):
        self.steps.append(Counter(self.counted.waits))


def test_a_step_waits_for_the_device_in_the_criterion_alone(batches):
    with SimulatedDevice() as counted:
        waits = Waits(counted)
        strategy = SingleDeviceStrategy(device=DEVICE)
        trainer = trainer_of(accelerator=Simulated(), strategy=strategy, callbacks=[waits])
        trainer.fit(module_of(), batches)
    assert len(waits.steps) == 4
    for step in waits.steps:
        assert {place.split(":")[0] for _, place in step} == {"fused/boundary.py"}
        assert step.total() <= 4
    assert {"lr", "train/loss", "train/ce", "train/cpg", "train/aux"} <= trainer.callback_metrics.keys()


def test_the_learning_rate_is_logged_as_a_number_of_the_device(batches):
    class Logged(Callback):
        def on_train_batch_end(self, trainer, *args):
            rate = trainer.callback_metrics["lr"]
            assert (rate.device, rate.dtype) == (DEVICE, torch.float32)
            rates.append(rate.item())

        def on_train_batch_start(self, trainer, *args):
            expected.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates, expected = [], []
    with SimulatedDevice():
        strategy = SingleDeviceStrategy(device=DEVICE)
        trainer_of(accelerator=Simulated(), strategy=strategy, callbacks=[Logged()]).fit(module_of(), batches)
    assert rates == pytest.approx(expected)
    assert len(set(rates)) == 4
