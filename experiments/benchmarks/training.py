"""Images a second of `cpg fit`, loader included, beside a plain training loop with torchvision's parts."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from data import EXPERIMENTS, Reference
from lightning.pytorch.callbacks import Callback
from measure import Options, apart, heading, ratio, row
from torch.utils.data import DataLoader
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from cpg_lightning.cli import main
from cpg_lightning.data import Augmentation, CamVidDataModule, SegmentationDataModule
from cpg_lightning.data.workers import init_worker
from cpg_lightning.losses import CrossEntropyCPGLoss, SegmentationCriterion

CPG, CE, PLAIN = "cpg fit, CE + CPG", "cpg fit, CE", "plain loop, CE"
# An epoch's images; None for all. On 2 cores, 5 repetitions with 96 images take about 3 minutes.
IMAGES = {"cpu": 96, "cuda": None}


class PlainLoop(Callback):
    """Trains by turns an epoch with CE + CPG, one with CE, and one in a plain loop over the same files, and times them.

    The plain loop has torchvision's reference transforms, its network, ``F.cross_entropy`` and the same optimizer, batch
    size, number of workers and precision. The first epoch of each does not count.
    """

    def __init__(self) -> None:
        self.seconds_an_image: dict[str, list[float]] = {CPG: [], CE: [], PLAIN: []}
        self.images = 0
        self.epoch: Callable[[], int]
        self.criteria: dict[str, SegmentationCriterion] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Build the plain loop."""
        self.criteria = {CPG: pl_module.criterion, CE: CrossEntropyCPGLoss(cpg_weight=0)}
        self.epoch = plain_loop(trainer.datamodule, trainer.strategy.root_device, trainer.precision)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with the criterion whose turn it is."""
        pl_module.criterion = self.criteria[self.turn(trainer)]
        self.images, self.start = 0, now(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, _: int
    ) -> None:
        """Count the images."""
        self.images += len(batch["image"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Time this epoch and, after both criteria, one of the plain loop."""
        counts = trainer.current_epoch > 1
        seconds = (now(pl_module.device) - self.start) / self.images
        if counts:
            self.seconds_an_image[self.turn(trainer)].append(seconds)
        if self.turn(trainer) == CE:
            start = now(pl_module.device)
            images = self.epoch()
            seconds = (now(pl_module.device) - start) / images
            if counts:
                self.seconds_an_image[PLAIN].append(seconds)

    def turn(self, trainer: L.Trainer) -> str:
        """What this epoch measures."""
        return CE if trainer.current_epoch % 2 else CPG


def now(device: torch.device) -> float:
    """Seconds, after what the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def plain_loop(data: SegmentationDataModule, device: torch.device, precision: str) -> Callable[[], int]:
    """A function that trains for an epoch and returns how many images it saw."""
    loader = DataLoader(
        Reference(data.datasets["train"], data),
        data.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=data.train_dataloader().num_workers,
        worker_init_fn=init_worker,
        persistent_workers=data.train_dataloader().num_workers > 0,
        pin_memory=device.type == "cuda",
    )
    network = lraspp_mobilenet_v3_large(num_classes=data.num_classes, weights_backbone=None).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.002)

    def epoch() -> int:
        seen = 0
        for images, masks in loader:
            images, masks = images.to(device, non_blocking=True), masks.squeeze(1).to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                logits = network(images)["out"]
            masks = masks.long().where(masks < data.num_classes, 255)
            loss = F.cross_entropy(logits.float(), masks, ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(images)
        return seen

    return epoch


def link_images(root: str, folder: Path, number: int | None) -> None:
    """Link the first images and labels of a dataset in CamVid's layout into a folder, in the same layout.

    An epoch then ends with its loader. Stopped earlier, the workers would go on loading while the next epoch is timed.
    """
    data = CamVidDataModule(root, Augmentation((240, 320)))
    for split in ("train", "val"):  # the second is not read, but must be there
        for pair in data.files(split)[:number]:
            for name, file in zip((split, f"{split}annot"), pair, strict=True):
                (folder / name).mkdir(exist_ok=True)
                (folder / name / Path(str(file)).name).symlink_to(Path(str(file)).absolute())


def fitted(root: str, device: torch.device, precision: str, epochs: int) -> dict[str, list[float]]:
    """Seconds an image of each in each epoch but the first."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as images:
        link_images(root, Path(images), IMAGES[device.type])
        command = main(
            [
                "fit",
                *("--config", str(EXPERIMENTS / "camvid.yaml"), "--data.root", images),
                *("--model.network", str(EXPERIMENTS / "networks" / "lraspp_mobilenet_v3_large.yaml")),
                *("--model.criterion", str(EXPERIMENTS / "criteria" / "ce_cpg.yaml")),
                *("--trainer.callbacks", "training.PlainLoop", "--trainer.logger", "false"),
                *("--trainer.accelerator", device.type, "--trainer.devices", "1", "--trainer.precision", precision),
                *("--trainer.max_epochs", str(2 * (epochs + 1)), "--trainer.limit_val_batches", "0"),
                *("--model.warmup_steps", "0"),
                *("--trainer.enable_checkpointing", "false", "--trainer.enable_progress_bar", "false"),
                *("--trainer.enable_model_summary", "false", "--trainer.default_root_dir", folder),
            ]
        )
    return next(callback for callback in command.trainer.callbacks if isinstance(callback, PlainLoop)).seconds_an_image


def table(options: Options) -> Iterator[str]:
    """A row a criterion, and one of the plain loop."""
    precision = "bf16-mixed" if options.device.type == "cuda" else "32-true"
    number = IMAGES[options.device.type] or "all"
    yield f"LRASPP on {number} training images of CamVid's layout, {precision}, loaders included; an epoch of each in turn."
    yield from heading("", "images a second", "by the plain loop")
    seconds = apart(options.device, fitted, options.root, options.device, precision, options.repetitions)
    for name, values in seconds.items():
        speeds, plain = ([1 / value for value in each] for each in (values, seconds[PLAIN]))
        yield row(name, f"{statistics.median(speeds):.1f}", ratio(speeds, plain))
