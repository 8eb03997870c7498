"""Size, time and memory of the networks, and what the package's own parts of them cost.

    python experiments/benchmarks/networks.py

prints, for the paper's three networks at the crops of its three datasets, parameters, multiply-adds, and the time of a
training step (forward, backward; the loss is a mean) and of inference with either memory format, with the peak memory of
both (high-water mark of a fresh process above the network and its input, Linux). Then the wrappers' price beside plain
torchvision, that of fusing bilinearly beside timm's trunk, and what activation checkpointing saves. Times are medians of
interleaved repetitions with their spread (10th to 90th percentile).
"""

import argparse
import json
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from measure import KEEP, fresh, interleaved, milliseconds, peak, ratio, row
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.segmentation import deeplabv3_resnet50, lraspp_mobilenet_v3_large

from cpg_lightning.networks import LRASPP, DeepLabV3, HRNetOCR, SegmentationNetwork

NETWORKS: dict[str, Callable[[int], SegmentationNetwork]] = {
    "DeepLabV3": lambda classes: DeepLabV3(classes, aux_loss=True),
    "LRASPP": LRASPP,
    "HRNetOCR": HRNetOCR,
}
CROPS = {"Cityscapes": (19, 512, 1024), "ADE20K": (150, 520, 520), "COCO-Stuff": (171, 520, 520)}
BATCH = 2  # DeepLabV3 cannot train on one image
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def built(name: str, dataset: str) -> tuple[SegmentationNetwork, Tensor]:
    """A network and images of a dataset's crop."""
    torch.manual_seed(0)
    classes, height, width = CROPS[dataset]
    return NETWORKS[name](classes), torch.randn(BATCH, 3, height, width)


def trained(network: nn.Module, images: Tensor) -> Callable[[], object]:
    """A forward and backward pass."""

    def step() -> None:
        network.train()
        network.zero_grad()
        sum(logits.mean() for logits in network(images).values()).backward()

    return step


def inferred(network: nn.Module, images: Tensor) -> Callable[[], object]:
    """A forward pass for evaluation."""

    def call() -> None:
        network.eval()
        with torch.no_grad():
            network(images)

    return call


def times(name: str, dataset: str, repetitions: int) -> dict[str, list[float]]:
    """Seconds of a training step and of inference, in either memory format."""
    calls: dict[str, Callable[[], object]] = {}
    for title, memory_format in FORMATS.items():
        network, images = built(name, dataset)
        network, images = network.to(memory_format=memory_format), images.contiguous(memory_format=memory_format)
        calls |= {f"train {title}": trained(network, images), f"infer {title}": inferred(network, images)}
    return interleaved(calls, repetitions)


def network_peak(name: str, dataset: str, training: bool, _: int) -> float:
    """Bytes of a training step, or of inference, above the network and the images."""
    network, images = built(name, dataset)
    return peak(trained(network, images) if training else inferred(network, images))


def wrapper_times(name: str, repetitions: int) -> dict[str, list[float]]:
    """Seconds of inference with enlarged logits: the package's network, and torchvision's."""
    plain = {"DeepLabV3": deeplabv3_resnet50, "LRASPP": lraspp_mobilenet_v3_large}[name]
    network = {"DeepLabV3": DeepLabV3, "LRASPP": LRASPP}[name](19)
    reference = plain(num_classes=19, weights_backbone=None)

    class Enlarged(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return F.interpolate(network(images)["out"], images.shape[-2:], mode="bilinear")

    network.eval()
    images = torch.randn(BATCH, 3, 512, 512)
    return interleaved(
        {"torchvision": inferred(reference, images), "wrapped": inferred(Enlarged(), images)}, repetitions
    )


def trunk_times(height: int, width: int, repetitions: int) -> dict[str, list[float]]:
    """Seconds of inference of HRNet-W48's trunk: timm's, and the one that fuses bilinearly."""
    stock = timm.create_model("hrnet_w48", features_only=True, feature_location="", out_indices=(1, 2, 3, 4))
    images = torch.randn(1, 3, height, width)
    return interleaved({"timm": inferred(stock, images), "bilinear": inferred(HRNetOCR(19).trunk, images)}, repetitions)


def checkpointed_times(repetitions: int) -> dict[str, list[float]]:
    """Seconds of a training step of HRNet-OCR with activations kept, and computed again."""
    images = torch.randn(1, 3, 512, 512)
    networks = {str(flag): HRNetOCR(19, checkpoint_activations=flag) for flag in (False, True)}
    return interleaved({flag: trained(network, images) for flag, network in networks.items()}, repetitions)


def checkpointed_peak(flag: bool, _: int) -> float:
    """Bytes of a training step of HRNet-OCR at 512x512."""
    return peak(trained(HRNetOCR(19, checkpoint_activations=flag), torch.randn(1, 3, 512, 512)))


JOBS: dict[str, Callable[..., object]] = {
    "times": times,
    "peak": network_peak,
    "wrapper": wrapper_times,
    "trunk": trunk_times,
    "checkpointed": checkpointed_times,
    "checkpointed peak": checkpointed_peak,
}


def network_table(options: list[str]) -> None:
    """A row a network and crop."""
    row(
        "",
        "parameters",
        "GMACs an image",
        "stride",
        "training step",
        "channels_last",
        "inference",
        "channels_last",
        "memory of both, GiB",
    )
    row(*["---"] * 9)
    for name, build in NETWORKS.items():
        for dataset, (classes, height, width) in CROPS.items():
            with torch.device("meta"), FlopCounterMode(display=False) as counter:
                network = build(classes).eval()
                logits = network(torch.empty(1, 3, height, width))["out"]
            seconds = fresh(["times", name, dataset], KEEP, *options)
            row(
                f"{name}, {dataset}: {BATCH}x{height}x{width}",
                f"{sum(parameter.numel() for parameter in network.parameters()):,}",
                f"{counter.get_total_flops() / 2e9:.1f}",
                round(height / logits.shape[2]),
                milliseconds(seconds["train contiguous"]),
                ratio(seconds["train channels_last"], seconds["train contiguous"]),
                milliseconds(seconds["infer contiguous"]),
                ratio(seconds["infer channels_last"], seconds["infer contiguous"]),
                ", ".join(
                    f"{fresh(['peak', name, dataset, flag], {}, *options) / 2**30:.1f}" for flag in (True, False)
                ),
            )


def parts_table(options: list[str]) -> None:
    """A row a part, beside what it is compared with."""
    row("", "reference", "by the reference")
    row("---", "---", "---")
    for name in ("DeepLabV3", "LRASPP"):
        seconds = fresh(["wrapper", name], KEEP, *options)
        row(
            f"{name} by torchvision's, inference, {BATCH}x512x512",
            milliseconds(seconds["torchvision"]),
            ratio(seconds["wrapped"], seconds["torchvision"]),
        )
    for size in ((512, 512), (512, 1024)):
        seconds = fresh(["trunk", *size], KEEP, *options)
        row(
            f"HRNet-W48's trunk by timm's, inference, 1x{size[0]}x{size[1]}",
            milliseconds(seconds["timm"]),
            ratio(seconds["bilinear"], seconds["timm"]),
        )
    seconds = fresh(["checkpointed"], KEEP, *options)
    kept, again = (fresh(["checkpointed peak", flag], {}, *options) for flag in (False, True))
    row(
        "HRNetOCR with activation checkpointing, training step, 1x512x512",
        milliseconds(seconds["False"]),
        ratio(seconds["True"], seconds["False"]),
    )
    row("its memory", f"{kept / 2**30:.1f} GiB", f"{again / kept:.2f}")


def main() -> None:
    """Run a job for another process, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        kind, *details = arguments.job
        print(json.dumps(JOBS[kind](*details, arguments.repetitions)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    options = ["--repetitions", str(arguments.repetitions)]
    parts_table(options)
    print()
    network_table(options)


if __name__ == "__main__":
    main()
