"""What the criterion and the metrics launch on an accelerator, and where the host waits, counted on any machine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from losses import OTHERS, PUBLIC, REFERENCE, definition, reference
from measure import Options, apart, heading, regions, row
from simulated_device import SimulatedDevice
from torch import Tensor

from cpg_lightning.inference import Inference
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.metrics import BoundaryF1Score, BoundaryIoU, ClassIoU, TrimapJaccardIndex

# Logits and labels: images, classes, height and width; height and width.
SHAPES = [
    ((2, 19, 64, 128), (512, 1024)),
    ((12, 19, 128, 256), (512, 1024)),
    ((16, 150, 65, 65), (520, 520)),
    ((16, 171, 130, 130), (520, 520)),
]
CLASSES, IMAGE, STRIDE = 19, (1024, 2048), 8
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Counts:
    """What was counted.

    Attributes:
        launches: Kernels.
        waits: How often the host waits, by operator and place.
        bytes: Bytes read and written.
        seconds: Modelled time without waits.
    """

    launches: int
    waits: dict[tuple[str, str], int]
    bytes: int
    seconds: float

    def cells(self) -> list[str]:
        """Cells of a table."""
        numbers = [f"{self.launches:,}", str(sum(self.waits.values()))]
        return [*numbers, f"{self.bytes / 1e9:.2f} GB", f"{1000 * self.seconds:.2f} ms"]


def counted(call: Callable[[], object], device: SimulatedDevice) -> Counts:
    """Counts of a call, after one that does not count: what is made once a run is not a step's."""
    call()
    device.reset()
    call()
    return Counts(device.launches, dict(device.waits), device.bytes, device.seconds)


def criterion_counts(loss: Loss, logits_shape: tuple[int, int, int, int], size: tuple[int, int]) -> Counts:
    """Counts of a forward and backward pass."""
    with SimulatedDevice() as device:
        logits = torch.randn(logits_shape, device=device.device).requires_grad_()
        target = regions(*logits_shape[:2], *size).to(device.device)
        return counted(lambda: torch.autograd.grad(loss(logits, target), logits), device)


def of_one_image(loss: Loss, logits_shape: tuple[int, int, int, int], size: tuple[int, int]) -> Counts:
    """Counts of a loss whose launches do not depend on the number of images, counted on one of them, to save memory."""
    images, *others = logits_shape
    counts = criterion_counts(loss, (1, *others), size)
    return Counts(counts.launches, counts.waits, images * counts.bytes, images * counts.seconds)


def evaluation_counts() -> dict[str, Counts]:
    """Counts of an evaluated image: of its prediction and its loss from the network's logits, and of each metric."""
    with SimulatedDevice() as device:
        label = regions(1, CLASSES, *IMAGE).to(device.device)
        image = torch.zeros(1, 3, *IMAGE, device=device.device)
        logits = torch.randn(1, CLASSES, IMAGE[0] // STRIDE, IMAGE[1] // STRIDE, device=device.device)
        predicted = label.where(label != 255, 0).roll((3, -2), dims=(1, 2))
        metrics = {
            "mIoU": ClassIoU(CLASSES),
            "boundary IoU": BoundaryIoU(CLASSES),
            "boundary F1, five distances": BoundaryF1Score(CLASSES),
            "trimap IoU, five widths": TrimapJaccardIndex(CLASSES),
        }
        metrics = {name: metric.to(device.device) for name, metric in metrics.items()}
        inference, criterion = Inference(), CrossEntropyCPGLoss()
        counts = {
            "prediction": counted(lambda: inference.classes(lambda _: logits, image, IMAGE, False), device),
            "val/loss, CE + CPG": counted(lambda: criterion.value(logits, label), device),
        }
        for name, metric in metrics.items():
            counts[name] = counted(lambda metric=metric: metric.update(predicted, label), device)
        return counts


def waits(title: str, counts: Counts) -> Iterator[str]:
    """A row a place where the host waits."""
    yield from heading(f"waits of {title}", "operator", "place")
    for (operator, place), number in counts.waits.items():
        yield row(number, f"`{operator}`", f"`{place}`")


def table(options: Options) -> Iterator[str]:
    """The lines, from a process without a GPU, beside which there is no simulated device."""
    yield from apart(torch.device("cpu"), lines)


def lines() -> list[str]:
    """Lines of the table, from the process that counts."""
    return list(_lines())


def _lines() -> Iterator[str]:
    """Counts of the criterion and the reference for each shape, of other losses for the first, and of an evaluated image."""
    yield "Counted with tensors that only say that they are on an accelerator, not timed, whatever the device named above."
    yield "The model's time is that of launches (5 microseconds each) or of traffic (4.3 TB/s), whichever takes longer for an"
    yield "operator; waits are not in it."
    columns = ("launches", "waits", "traffic", "model")
    yield from heading("forward and backward", "", *columns)
    first = None
    for shape, size in SHAPES:
        title = f"{'x'.join(map(str, shape))} -> {'x'.join(map(str, size))}"
        counts = criterion_counts(CrossEntropyCPGLoss(), shape, size)
        first = first or counts
        yield row(title, "CE + CPG", *counts.cells())
        yield row(title, "F.interpolate + F.cross_entropy", *of_one_image(reference, shape, size).cells())
        if shape == SHAPES[0][0]:
            for name, loss in {"definition": definition, **OTHERS}.items():
                if name not in (PUBLIC, REFERENCE):
                    yield row(title, name, *criterion_counts(loss, shape, size).cells())
    yield from waits("CE + CPG for the first shape", first)
    counts = evaluation_counts()
    yield from heading(f"an evaluated image of {'x'.join(map(str, IMAGE))}, {CLASSES} classes", *columns)
    for name, each in counts.items():
        yield row(name, *each.cells())
    for name, each in counts.items():
        if each.waits:
            yield from waits(name, each)
