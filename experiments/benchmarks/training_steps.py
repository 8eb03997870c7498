"""Time and memory of a training step of the paper's networks, by criterion."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from losses import PUBLIC, REFERENCE, Shape
from measure import Options, apart, gibibytes, heading, interleaved, milliseconds, peak, ratio, regions, row
from networks import CROPS, NETWORKS, PRECISIONS, built
from torch import Tensor

from cpg_lightning.losses import CrossEntropyCPGLoss, SegmentationCriterion
from cpg_lightning.networks import SegmentationNetwork

PAPER = ("DeepLabV3", "HRNetOCR", "LRASPP")
AUX_WEIGHT = 0.4


class PlainCrossEntropy(SegmentationCriterion):
    """``F.interpolate`` and ``F.cross_entropy`` of both outputs."""

    def forward(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:  # noqa: D102
        large = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=align_corners)
        return F.cross_entropy(large.float(), target, ignore_index=self.ignore_index)

    def auxiliary(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:  # noqa: D102
        return self(logits, target, align_corners)


CRITERIA: dict[str, SegmentationCriterion] = {
    REFERENCE: PlainCrossEntropy(),
    "CE by the same pass": CrossEntropyCPGLoss(cpg_weight=0),
    PUBLIC: CrossEntropyCPGLoss(),
}


def step(
    network: SegmentationNetwork,
    criterion: SegmentationCriterion,
    images: Tensor,
    target: Tensor,
    autocast: torch.dtype | None,
) -> Callable[[], None]:
    """A forward pass of the network, the loss, and the backward pass, as in training."""

    def call() -> None:
        network.zero_grad()
        with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            logits = network(images)
            loss = criterion(logits["out"], target, network.align_corners)
            if logits.get("aux") is not None:
                loss = loss + AUX_WEIGHT * criterion.auxiliary(logits["aux"], target, network.align_corners)
        loss.backward()

    return call


def step_of(name: str, criterion: str, crop: Shape, precision: str, device: torch.device) -> Callable[[], None]:
    """A step of a network in its own memory format, on random images and drawn labels."""
    network, images = built(name, crop, NETWORKS[name](2).memory_format, device)
    target = regions(*crop).to(device)
    return step(network.train(), CRITERIA[criterion], images, target, PRECISIONS[precision])


def times(name: str, crop: Shape, precision: str, device: torch.device, repetitions: int) -> dict[str, list[float]]:
    """Seconds of a step with each criterion."""
    calls = {criterion: step_of(name, criterion, crop, precision, device) for criterion in CRITERIA}
    return interleaved(calls, repetitions, device, warm_up=2)


def step_peak(name: str, criterion: str, crop: Shape, precision: str, device: torch.device) -> float:
    """Bytes of a step above the network and its input."""
    call = step_of(name, criterion, crop, precision, device)
    call()  # gradients of the parameters do not count
    return peak(call, device)


def table(options: Options) -> Iterator[str]:
    """Two rows for each network and crop: time and memory."""
    precision = "bf16-mixed" if options.device.type == "cuda" else "float32"
    yield f"Forward pass of the network, loss of its outputs and backward pass in {precision}; no optimizer, no loader. All but"
    yield "the first column of numbers are ratios to it. Images are random, labels are drawn."
    yield from heading("", "", *CRITERIA)
    for name in PAPER:
        for dataset, crop in CROPS[options.device.type].items():
            title = f"{name}, {dataset}: {'x'.join(map(str, crop))}"
            try:
                yield from rows(options, title, name, crop, precision)
            except torch.OutOfMemoryError:
                yield row(title, "more memory than the device has")


def rows(options: Options, title: str, name: str, crop: Shape, precision: str) -> Iterator[str]:
    """The time and the memory of a network's step."""
    device, (first, *others) = options.device, CRITERIA
    seconds = apart(device, times, name, crop, precision, device, options.repetitions, keep=True)
    peaks = {each: apart(device, step_peak, name, each, crop, precision, device) for each in CRITERIA}
    yield row(title, "time", milliseconds(seconds[first]), *(ratio(seconds[each], seconds[first]) for each in others))
    yield row(title, "memory", gibibytes(peaks[first]), *(f"{peaks[each] / peaks[first]:.2f}" for each in others))
