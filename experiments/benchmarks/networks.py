"""Size, time and memory of the networks in float32 and bfloat16, and what the package's own parts of them cost."""

from collections.abc import Callable, Iterator

import timm
import torch
import torch.nn.functional as F
from measure import Options, apart, gibibytes, heading, interleaved, milliseconds, peak, ratio, row
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.segmentation import deeplabv3_resnet50, fcn_resnet50, lraspp_mobilenet_v3_large

from cpg_lightning.networks import (
    LRASPP,
    SMP,
    Adapter,
    DeepLabV3,
    EfficientNetLite0DeepLabV3Plus,
    HRNetOCR,
    HuggingFace,
    SegmentationNetwork,
)

CONVNEXT = {
    "model_type": "convnext",
    "hidden_sizes": [96, 192, 384, 768],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
NETWORKS: dict[str, Callable[[int], SegmentationNetwork]] = {
    "DeepLabV3": lambda classes: DeepLabV3(classes, aux_loss=True),
    "LRASPP": LRASPP,
    "HRNetOCR": HRNetOCR,
    "EfficientNetLite0DeepLabV3Plus": EfficientNetLite0DeepLabV3Plus,
    "SMP, U-Net on ResNet-34": lambda classes: SMP(classes, "unet", "resnet34"),
    "SMP, FPN on EfficientNet-B0": lambda classes: SMP(classes, "fpn", "efficientnet-b0"),
    "SMP, SegFormer on MiT-B0": lambda classes: SMP(classes, "segformer", "mit_b0"),
    "HuggingFace, SegFormer-B0": HuggingFace,
    "HuggingFace, UPerNet on ConvNeXt-T": lambda classes: HuggingFace(
        classes, "upernet", {"backbone_config": CONVNEXT}
    ),
    "Adapter, FCN on ResNet-50": lambda classes: Adapter(
        classes, fcn_resnet50(weights_backbone=None, num_classes=classes)
    ),
}
# Images, classes, height and width.
CROPS: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "cuda": {"Cityscapes": (12, 19, 512, 1024), "ADE20K": (16, 150, 520, 520), "COCO-Stuff": (16, 171, 520, 520)},
    "cpu": {"Cityscapes": (2, 19, 256, 512)},
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PRECISIONS = {"float32": None, "bf16-mixed": torch.bfloat16}
SIDE = 512  # of the images that the package's own parts are measured on


def trained(network: nn.Module, images: Tensor, autocast: torch.dtype | None = None) -> Callable[[], object]:
    """A forward and backward pass; the loss is a mean."""

    def step() -> None:
        network.train()
        network.zero_grad()
        with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            loss = sum(logits.mean() for logits in network(images).values())
        loss.backward()

    return step


def inferred(network: nn.Module, images: Tensor, autocast: torch.dtype | None = None) -> Callable[[], object]:
    """A forward pass for evaluation."""

    def call() -> None:
        network.eval()
        with torch.no_grad(), torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            network(images)

    return call


def times(
    name: str, crop: tuple[int, int, int, int], precision: str, device: torch.device, repetitions: int
) -> dict[str, list[float]]:
    """Seconds of a training step and of inference, in either memory format."""
    calls: dict[str, Callable[[], object]] = {}
    for title, memory_format in FORMATS.items():
        network, images = built(name, crop, memory_format, device)
        calls[f"train {title}"] = trained(network, images, PRECISIONS[precision])
        calls[f"infer {title}"] = inferred(network, images, PRECISIONS[precision])
    return interleaved(calls, repetitions, device)


def network_peak(
    name: str, crop: tuple[int, int, int, int], precision: str, device: torch.device, training: bool
) -> float:
    """Bytes of a training step, or of inference, above the network and the images."""
    network, images = built(name, crop, NETWORKS[name](2).memory_format, device)
    call = trained if training else inferred
    return peak(call(network, images, PRECISIONS[precision]), device)


def built(
    name: str, crop: tuple[int, int, int, int], memory_format: torch.memory_format, device: torch.device
) -> tuple[SegmentationNetwork, Tensor]:
    """A network and images of a crop, in a memory format."""
    torch.manual_seed(0)
    images, classes, height, width = crop
    network = NETWORKS[name](classes).to(device, memory_format=memory_format)
    return network, torch.randn(images, 3, height, width, device=device).contiguous(memory_format=memory_format)


def wrapper_times(name: str, device: torch.device, repetitions: int) -> dict[str, list[float]]:
    """Seconds of inference with upsampled logits: the package's network, and torchvision's."""
    plain = {"DeepLabV3": deeplabv3_resnet50, "LRASPP": lraspp_mobilenet_v3_large}[name]
    network = {"DeepLabV3": DeepLabV3, "LRASPP": LRASPP}[name](19).to(device)
    reference = plain(num_classes=19, weights_backbone=None).to(device)

    class Upsampled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return F.interpolate(network(images)["out"], images.shape[-2:], mode="bilinear")

    network.eval()
    images = torch.randn(2, 3, SIDE, SIDE, device=device)
    calls = {"reference": inferred(reference, images), "ours": inferred(Upsampled(), images)}
    return interleaved(calls, repetitions, device)


def trunk_times(device: torch.device, repetitions: int) -> dict[str, list[float]]:
    """Seconds of inference of HRNet-W48's trunk: timm's, and the one that fuses bilinearly."""
    stock = timm.create_model("hrnet_w48", features_only=True, feature_location="", out_indices=(1, 2, 3, 4))
    images = torch.randn(1, 3, SIDE, SIDE, device=device)
    calls = {"reference": inferred(stock.to(device), images), "ours": inferred(HRNetOCR(19).to(device).trunk, images)}
    return interleaved(calls, repetitions, device)


def checkpointed_times(device: torch.device, repetitions: int) -> dict[str, list[float]]:
    """Seconds of a training step of HRNet-OCR with activations kept, and computed again."""
    images = torch.randn(1, 3, SIDE, SIDE, device=device)
    networks = {name: HRNetOCR(19, checkpoint_activations=name == "ours").to(device) for name in ("reference", "ours")}
    return interleaved({name: trained(network, images) for name, network in networks.items()}, repetitions, device)


def checkpointed_peak(again: bool, device: torch.device) -> float:
    """Bytes of a training step of HRNet-OCR."""
    images = torch.randn(1, 3, SIDE, SIDE, device=device)
    return peak(trained(HRNetOCR(19, checkpoint_activations=again).to(device), images), device)


def table(options: Options) -> Iterator[str]:
    """A row a network, crop and precision, and a row a part beside what it is compared with."""
    yield "A training step is a forward and a backward pass. In columns of `channels_last` are ratios to the time before"
    yield "them. Memory is that of a training step and of inference in the network's own format."
    yield from heading(
        *("", "precision", "parameters", "GMACs an image", "stride", "training step", "`channels_last`"),
        *("inference", "`channels_last`", "memory", "own format"),
    )
    for name in NETWORKS:
        for dataset, crop in CROPS[options.device.type].items():
            for precision in PRECISIONS:
                yield network_row(options, name, dataset, crop, precision)
    yield from parts(options)


def network_row(options: Options, name: str, dataset: str, crop: tuple[int, int, int, int], precision: str) -> str:
    """The row of a network, a crop and a precision."""
    device, (images, classes, height, width) = options.device, crop
    title = f"{name}, {dataset}: {images}x{height}x{width}"
    try:
        network = NETWORKS[name](classes).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            logits = network(torch.zeros(1, 3, height, width))["out"]
        seconds = apart(device, times, name, crop, precision, device, options.repetitions, keep=True)
        peaks = [apart(device, network_peak, name, crop, precision, device, training) for training in (True, False)]
    except ImportError as error:
        return row(title, precision, f"not measured: {error}")
    except torch.OutOfMemoryError:
        return row(title, precision, "more memory than the device has")
    return row(
        title,
        precision,
        f"{sum(parameter.numel() for parameter in network.parameters()):,}",
        f"{counter.get_total_flops() / 2e9:.1f}",
        round(height / logits.shape[2]),
        milliseconds(seconds["train contiguous"]),
        ratio(seconds["train channels_last"], seconds["train contiguous"]),
        milliseconds(seconds["infer contiguous"]),
        ratio(seconds["infer channels_last"], seconds["infer contiguous"]),
        ", ".join(map(gibibytes, peaks)),
        next(title for title, memory_format in FORMATS.items() if memory_format is network.memory_format),
    )


def parts(options: Options) -> Iterator[str]:
    """A row a part."""
    device, repetitions = options.device, options.repetitions
    timed = {
        f"DeepLabV3 by torchvision's, inference, 2x{SIDE}x{SIDE}": (wrapper_times, "DeepLabV3"),
        f"LRASPP by torchvision's, inference, 2x{SIDE}x{SIDE}": (wrapper_times, "LRASPP"),
        f"HRNet-W48's trunk by timm's, inference, 1x{SIDE}x{SIDE}": (trunk_times,),
        f"HRNetOCR with activation checkpointing, training step, 1x{SIDE}x{SIDE}": (checkpointed_times,),
    }
    yield from heading("", "reference", "ours by the reference")
    for title, (job, *arguments) in timed.items():
        seconds = apart(device, job, *arguments, device, repetitions, keep=True)
        yield row(title, milliseconds(seconds["reference"]), ratio(seconds["ours"], seconds["reference"]))
    kept, again = (apart(device, checkpointed_peak, flag, device) for flag in (False, True))
    yield row("its memory", gibibytes(kept), f"{again / kept:.2f}")
