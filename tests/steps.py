"""Training steps in tests: a module and its batches, what a Trainer does on the simulated device, two processes."""

import os
import subprocess
import sys

import torch
from conftest import simulated
from lightning import seed_everything
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy
from simulated_device import DEVICE
from tiny import SGD, Tiny, trainer_of
from torch.utils.data import DataLoader

from cpg_lightning.data import Augmentation, CamVidDataModule, ClassInfo
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule

CLASSES = 5


def module_of(kind=Tiny, **options):
    """A module whose network has an auxiliary output, with the same weights each time."""
    torch.manual_seed(0)
    network = kind(CLASSES, aux_loss=True)
    return SegmentationModule(network, CrossEntropyCPGLoss(), ClassInfo.numbered(CLASSES), optimizer=SGD, **options)


def loader_of():
    """Four batches of two images."""
    torch.manual_seed(0)
    masks = torch.randint(0, CLASSES, (4, 2, 4, 6)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    images = torch.randint(0, 256, (4, 2, 3, 32, 48), dtype=torch.uint8)
    batches = [{"image": image, "mask": mask, "name": ["a", "b"]} for image, mask in zip(images, masks, strict=True)]
    return DataLoader(batches, batch_size=None)


class Steps(Callback):
    """Keeps of each step the names of its images, its learning rate and its gradients, in a file of each process."""

    def __init__(self, folder):
        self.folder = folder
        self.names = []
        self.steps = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.names += batch["name"]

    def on_before_optimizer_step(self, trainer, module, optimizer):
        gradients = [parameter.grad.clone() for parameter in module.parameters()]
        self.steps.append((self.names, optimizer.param_groups[0]["lr"], gradients))
        self.names = []

    def on_train_end(self, trainer, module):
        torch.save(self.steps, f"{self.folder}/steps-{trainer.global_rank}.pt")


def take_steps(root, folder, **options):
    """Train on images of CamVid's layout, two a step, whole and not scaled; see :class:`Steps`."""
    seed_everything(0)
    data = CamVidDataModule(root, Augmentation((36, 48), scale=(1, 1)), batch_size=2, num_workers=0)
    module = SegmentationModule(Tiny(11, aux_loss=True), CrossEntropyCPGLoss(), data.classes, optimizer=SGD)
    trainer = trainer_of(callbacks=[Steps(folder)], limit_val_batches=0, **options)
    trainer.fit(module, datamodule=data)


def steps_taken(folder):
    """What all processes together did in each step: the names of the images, the learning rate, the gradients."""
    shares = [torch.load(file) for file in sorted(folder.glob("steps-*.pt"))]
    return [
        (sorted(name for names, *_ in step for name in names), step[0][1], step[0][2])
        for step in zip(*shares, strict=True)
    ]


def in_two_processes(code):
    """Runs code with two processes of a Trainer, ``trainer_of(**TWO)``; gives what is left of it."""
    start = "from steps import *; from tiny import *; TWO = dict(devices=2, strategy='ddp_fork', use_distributed_sampler=False)\n"
    settings = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **settings})


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
    """The places where the host waits from the begin of each step to that of the next, and the operators in between."""

    def __init__(self, counted):
        self.counted = counted
        self.steps = []
        self.operators = set()
        self.launches = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx:
            self.steps.append(self.counted.waits)
            self.operators |= self.counted.operators.keys()
            self.launches.append(self.counted.launches)
        self.counted.reset()


def counted(batches, *callbacks, **options):
    """The waits and launches of the steps of a training on the simulated device, with some callbacks."""
    with simulated() as device:
        waits = Waits(device)
        strategy = SingleDeviceStrategy(device=DEVICE)
        options = {"accelerator": Simulated(), "strategy": strategy, "callbacks": [*callbacks, waits], **options}
        trainer_of(max_epochs=1, **options).fit(module_of(), batches)
    return waits
