"""Training steps in tests: a module, and the simulated device for a Trainer."""

import torch
from lightning.pytorch.accelerators import Accelerator
from simulated_device import DEVICE
from tiny import SGD, Tiny

from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule

CLASSES = 5


def module_of(kind=Tiny, **options):
    """A module whose network has an auxiliary output, with the same weights each time."""
    torch.manual_seed(0)
    network = kind(CLASSES, aux_loss=True)
    return SegmentationModule(network, CrossEntropyCPGLoss(), CLASSES, optimizer=SGD, **options)


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
