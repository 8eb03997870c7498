"""Time of the evaluation's metrics on one image, beside LRASPP's own forward pass on it."""

from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np
import torch
from measure import Options, heading, interleaved, milliseconds, ratio, regions, row
from torch import Tensor

from cpg_lightning.metrics import BoundaryF1Score, BoundaryIoU, ClassIoU, TrimapJaccardIndex
from cpg_lightning.networks import LRASPP

CLASSES, SIZE = 19, (512, 1024)
PATCHES = 0.05  # share of the 8x8 blocks that are of another class
DRAWN = 3  # labels, where there is no Cityscapes
FORWARD = "LRASPP's forward pass"


def cityscapes_labels(root: str) -> Tensor:
    """Classes of the training images' labels at half size, (B, H, W)."""
    import cv2

    from cpg_lightning.data import Augmentation, CityscapesDataModule

    data = CityscapesDataModule(root, Augmentation(SIZE))
    values = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for _, path in data.files("train")]
    half = [cv2.resize(value, SIZE[::-1], interpolation=cv2.INTER_NEAREST_EXACT) for value in values]
    return torch.from_numpy(data.label_table()[np.stack(half)]).long()


def predictions(labels: Tensor) -> Tensor:
    """The labels shifted by three pixels, with patches of other classes."""
    generator = torch.Generator().manual_seed(0)
    shifted = labels.where(labels != 255, 0).roll((3, -2), dims=(1, 2))
    blocks = (len(labels), SIZE[0] // 8, SIZE[1] // 8)
    others = torch.randint(CLASSES, blocks, generator=generator)
    chosen = torch.rand(blocks, generator=generator) < PATCHES
    others, chosen = (grid.repeat_interleave(8, 1).repeat_interleave(8, 2) for grid in (others, chosen))
    return others.where(chosen, shifted)


def table(options: Options) -> Iterator[str]:
    """A row a metric."""
    device = options.device
    labels = cityscapes_labels(options.cityscapes) if options.cityscapes else regions(DRAWN, CLASSES, *SIZE)
    pairs = [
        (prediction[None].to(device), label[None].to(device))
        for prediction, label in zip(predictions(labels), labels, strict=True)
    ]
    network = LRASPP(CLASSES).eval().to(device)
    network.to(memory_format=network.memory_format)
    image = torch.rand(1, 3, *SIZE, device=device).contiguous(memory_format=network.memory_format)
    metrics = {
        "mIoU": ClassIoU(CLASSES),
        "boundary IoU": BoundaryIoU(CLASSES),
        "boundary F1, five distances": BoundaryF1Score(CLASSES),
        "trimap IoU, five widths": TrimapJaccardIndex(CLASSES),
    }
    metrics = {name: metric.to(device) for name, metric in metrics.items()}

    def updated(names: list[str]) -> Callable[[], None]:
        turns = cycle(pairs)

        def update() -> None:
            prediction, label = next(turns)
            for name in names:
                metrics[name].update(prediction, label)

        return update

    @torch.inference_mode()
    def forward() -> None:
        network(image)

    calls = {FORWARD: forward, **{name: updated([name]) for name in metrics}, "all": updated(list(metrics))}
    seconds = interleaved(calls, 3 * options.repetitions, device, warm_up=len(pairs))
    yield f"{'Half-size labels of Cityscapes' if options.cityscapes else 'Drawn labels'} of {CLASSES} classes."
    yield from heading("", f"an image of {SIZE[0]}x{SIZE[1]}", "by the forward pass")
    for name, values in seconds.items():
        yield row(name, milliseconds(values), ratio(values, seconds[FORWARD]))
