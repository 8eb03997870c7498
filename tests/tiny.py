"""Parts of runs in tests: a network that is fast and not good, a quiet trainer, a mishap and a logger."""

import functools
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import nn

from cpg_lightning.data import Augmentation, CamVidDataModule
from cpg_lightning.networks import SegmentationNetwork

SGD = functools.partial(torch.optim.SGD, lr=0.1)


def trainer_of(**options):
    """A trainer on the CPU for two epochs that prints and keeps nothing unless told otherwise."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(**{"accelerator": "cpu", "max_epochs": 2, "enable_checkpointing": False, **quiet, **options})


class Tiny(SegmentationNetwork):
    """Colours to classes, at stride 4."""

    def __init__(self, num_classes: int, aux_loss: bool = False) -> None:
        super().__init__()
        self.out = nn.Conv2d(3, num_classes, kernel_size=4, stride=4)
        self.aux = nn.Conv2d(3, num_classes, kernel_size=4, stride=4) if aux_loss else None

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = {"out": self.out(images)}
        return logits if self.aux is None else {**logits, "aux": self.aux(images)}


class Pooled(Tiny):
    """A network with BatchNorm after pooling over the whole image, which takes no single image in training."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, num_classes, 1), nn.BatchNorm2d(num_classes))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": super().forward(images)["out"] + self.pooled(images)}


class Flexible(Tiny):
    """A network that accepts any option."""

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, options.get("aux_loss", False))


class Described(Tiny):
    """A network that a folder describes."""

    paths = ("folder",)

    def __init__(self, num_classes: int, aux_loss: bool = False, folder: str | None = None) -> None:
        super().__init__(num_classes, aux_loss if folder is None else (Path(folder) / "aux").read_text() == "true")

    def checkpoint_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {**arguments, "folder": None, "aux_loss": self.aux is not None}


class Hungry(Tiny):
    """A network that needs more memory than there is, in training or in evaluation."""

    def __init__(self, num_classes: int, hungry_in_training: bool = True, cuda: bool = False) -> None:
        super().__init__(num_classes)
        self.hungry_in_training = hungry_in_training
        self.cuda_error = cuda

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.training == self.hungry_in_training:
            if self.cuda_error:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
            torch.empty(2**55)
        return super().forward(images)


class Failing(Tiny):
    """A network with a mistake."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        raise RuntimeError("no such thing")


def pointwise(classes: int) -> nn.Conv2d:
    """A network that a function builds."""
    return nn.Conv2d(3, classes, kernel_size=1)


class Broken(Callback):
    """Breaks training off when an epoch begins."""

    only_watches = True

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


class Kept(ModelCheckpoint):
    """A ModelCheckpoint without options."""

    def __init__(self) -> None:
        super().__init__(monitor="val/mIoU", mode="max")


class Fixed(CamVidDataModule):
    """A data module without options."""

    def __init__(self) -> None:
        super().__init__("camvid", Augmentation(crop_size=(24, 32)), batch_size=2, num_workers=0)


class Samples(Callback):
    """Keeps the weights that training starts from, and its batches."""

    only_watches = True

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self.batches: list[dict[str, Any]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        self.batches.append(batch)


class Recording(Logger):
    """Keeps what Lightning logs."""

    name = "recording"
    version = None

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_hyperparams(self, *arguments, **options):
        pass

    def log_metrics(self, metrics, step=None):
        self.rows.append({"step": step + 1, **metrics})
