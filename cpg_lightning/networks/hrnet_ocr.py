"""HRNetV2 with object-contextual representations: the official network on timm's trunk."""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from cpg_lightning.networks.base import SegmentationNetwork, check_num_classes
from cpg_lightning.networks.weights import Source, load_into, prefix_of, read_weights

PIXEL_CHANNELS, KEY_CHANNELS = 512, 256  # constants of the official code

# Name prefixes in the official files, and in this class. All other names belong to the trunk.
OFFICIAL_NAMES = {
    "aux_head.": "aux_head.",
    "cls_head.": "cls_head.",
    "conv3x3_ocr.": "pixels.",
    "ocr_distri_head.object_context_block.f_pixel.": "query.",
    "ocr_distri_head.object_context_block.f_object.": "key.",
    "ocr_distri_head.object_context_block.f_down.": "value.",
    "ocr_distri_head.object_context_block.f_up.": "context.",
    "ocr_distri_head.conv_bn_dropout.": "mix.",
}
# Name prefixes of the classification head in ImageNet files.
CLASSIFICATION_HEAD = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")


class HRNetOCR(SegmentationNetwork):
    """HRNetV2-OCR: logits at stride 4 for any image size, with an auxiliary head.

    Each pixel attends to one vector per class: the mean of the pixel features, weighted by the auxiliary head's
    prediction of the class. The network is numerically equal to the official one
    (github.com/HRNet/HRNet-Semantic-Segmentation, branch HRNet-OCR, ``seg_hrnet_ocr.py``). The trunk is timm's, changed
    to fuse branches by bilinear interpolation, as the official network does, instead of nearest neighbours.

    Args:
        num_classes: Number of classes C.
        width: Channels of the branch at stride 4: 18, 32 or 48.
        pretrained: Whether to download ImageNet weights for the trunk from timm's hub.
        checkpoint_activations: Whether to recompute the trunk's activations in the backward pass instead of storing
            them. It takes less memory and more time.

    Raises:
        ValueError: If there are fewer than 2 classes, or for another width.
        FileNotFoundError: If the weights are not on disk and cannot be downloaded.

    Source: Yuan, Chen, Wang, "Object-Contextual Representations for Semantic Segmentation", arXiv 1909.11065; Wang et
    al., "Deep High-Resolution Representation Learning for Visual Recognition", arXiv 1908.07919.

    Example:
        >>> import torch
        >>> network = HRNetOCR(num_classes=19, width=18)
        >>> {name: tuple(logits.shape) for name, logits in network(torch.rand(1, 3, 65, 97)).items()}
        {'out': (1, 19, 17, 25), 'aux': (1, 19, 17, 25)}
    """

    align_corners = True
    memory_format = torch.channels_last
    pretrained_arguments = ("pretrained",)

    def __init__(
        self, num_classes: int, width: int = 48, pretrained: bool = False, checkpoint_activations: bool = False
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        if width not in (18, 32, 48):
            raise ValueError(f"expected a width of 18, 32 or 48 channels, got {width}")
        self.trunk = _trunk(width, pretrained, checkpoint_activations)
        channels = 15 * width  # 1 + 2 + 4 + 8 of the four branches
        self.aux_head = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, num_classes, kernel_size=1),
        )
        self.pixels = nn.Sequential(
            nn.Conv2d(channels, PIXEL_CHANNELS, kernel_size=3, padding=1),
            nn.BatchNorm2d(PIXEL_CHANNELS),
            nn.ReLU(inplace=True),
        )
        self.query = nn.Sequential(*_unit(PIXEL_CHANNELS, KEY_CHANNELS), *_unit(KEY_CHANNELS, KEY_CHANNELS))
        self.key = nn.Sequential(*_unit(PIXEL_CHANNELS, KEY_CHANNELS), *_unit(KEY_CHANNELS, KEY_CHANNELS))
        self.value = nn.Sequential(*_unit(PIXEL_CHANNELS, KEY_CHANNELS))
        self.context = nn.Sequential(*_unit(KEY_CHANNELS, PIXEL_CHANNELS))
        self.mix = nn.Sequential(*_unit(2 * PIXEL_CHANNELS, PIXEL_CHANNELS), nn.Dropout2d(0.05))
        self.cls_head = nn.Conv2d(PIXEL_CHANNELS, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See :meth:`SegmentationNetwork.forward`."""
        branches = self.trunk(images)
        size = branches[0].shape[-2:]
        features = torch.cat([branches[0], *(_upsampled(branch, size) for branch in branches[1:])], dim=1)
        aux = self.aux_head(features)
        pixels = self.pixels(features)  # (B, 512, h, w)
        weights = aux.flatten(2).softmax(dim=2)  # weight of each pixel in each class, (B, C, h * w)
        classes = weights @ pixels.flatten(2).transpose(1, 2)  # (B, C, 512)
        classes = classes.transpose(1, 2).unsqueeze(3)  # (B, 512, C, 1)
        query, key, value = self.query(pixels), self.key(classes), self.value(classes)
        attention = (query.flatten(2).transpose(1, 2) @ key.flatten(2) * KEY_CHANNELS**-0.5).softmax(dim=2)
        context = (attention @ value.flatten(2).transpose(1, 2)).transpose(1, 2)  # (B, 256, h * w)
        context = self.context(context.unflatten(2, size))
        return {"out": self.cls_head(self.mix(torch.cat([context, pixels], dim=1))), "aux": aux}

    def load_weights(self, source: Source, new_classifier: bool = False) -> None:
        """See :meth:`SegmentationNetwork.load_weights`. Official files are recognised by the names of their weights.

        - Segmentation networks (``hrnet_ocr_*.pth``). Files written with InPlaceABN lack ``num_batches_tracked``; of
          their BatchNorm scales, only the absolute value is used.
        - ImageNet classifiers (``hrnetv2_w48_imagenet_pretrained.pth``), loaded into the trunk only.
        """
        weights = read_weights(source)
        trunk = set(self.trunk.state_dict())
        # All files use the same names for the trunk's weights; files of this package add "trunk." in front.
        prefix = (prefix_of(weights, trunk) or "").removesuffix("trunk.")
        weights = {
            prefix + _own_name(name.removeprefix(prefix), trunk) if name.startswith(prefix) else name: weight
            for name, weight in weights.items()
        }
        if not any(name.removeprefix(prefix).startswith(tuple(OFFICIAL_NAMES.values())) for name in weights):
            classifier = tuple(prefix + name for name in CLASSIFICATION_HEAD)
            load_into(self.trunk, {name: w for name, w in weights.items() if not name.startswith(classifier)})
            return
        load_into(self, weights, new_classifier)
        if not any(name.endswith("num_batches_tracked") for name in weights):
            with torch.no_grad():
                for module in self.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.weight.abs_().add_(1e-5)


class _Fusing(nn.Module):
    """timm's multi-branch module, with bilinear upsampling of the lower-resolution branches."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.branches = module.branches
        self.fuse_layers = module.fuse_layers
        self.fuse_act = module.fuse_act
        for i, layers in enumerate(self.fuse_layers):
            for j in range(i + 1, len(layers)):
                layers[j] = layers[j][:2]  # without timm's nearest-neighbour upsampling

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        branches = [branch(x) for branch, x in zip(self.branches, images, strict=True)]
        fused = []
        for i, layers in enumerate(self.fuse_layers):
            total = layers[0](branches[0])
            for j in range(1, len(layers)):
                term = layers[j](branches[j])
                if j > i:
                    term = _upsampled(term, branches[i].shape[-2:])
                # The first total may be a branch, which must not be changed.
                total = total + term if j == 1 else total.add_(term)
            fused.append(self.fuse_act(total))
        return fused


class _Checkpointed(nn.Sequential):
    """Layers whose activations are recomputed in the backward pass, without a second update of running statistics."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the compiler cannot trace custom context managers
    def forward(self, images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        for layer in self:
            images = checkpoint(layer, images, use_reentrant=False, context_fn=partial(_contexts, layer))
        return images


def _contexts(layer: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for the forward pass and for recomputation in the backward pass."""
    return nullcontext(), _FrozenStatistics(layer)


class _FrozenStatistics(AbstractContextManager[None]):
    """Context manager that keeps a layer's running statistics unchanged; it can be entered repeatedly."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.norms = [module for module in layer.modules() if isinstance(module, _BatchNorm)]

    def __enter__(self) -> None:
        self.momenta = [norm.momentum for norm in self.norms]
        counts = ((name, buffer) for name, buffer in self.layer.named_buffers() if name.endswith("num_batches_tracked"))
        self.counts = {name: count.clone() for name, count in counts}
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm, momentum in zip(self.norms, self.momenta, strict=True):
            norm.momentum = momentum
        for name, count in self.counts.items():
            self.layer.get_buffer(name).copy_(count)


def _trunk(width: int, pretrained: bool, checkpoint_activations: bool) -> nn.Module:
    """The trunk of timm: the features of the four branches at strides 4, 8, 16 and 32."""
    import timm  # only here: its import is slow

    name = f"hrnet_w{width}"
    try:
        trunk = timm.create_model(
            name, pretrained=pretrained, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)
        )
    except (TypeError, ValueError, AttributeError):
        raise
    except Exception as error:  # the hub raises errors of many types
        if not pretrained:
            raise
        raise FileNotFoundError(
            f"the weights {name} could not be downloaded ({error}); on a machine with a network, download them into the hub's "
            "cache, or download an official file and pass it to load_weights, or --model.weights; or start from random weights: "
            "--model.network.pretrained false"
        ) from error
    kind = _Checkpointed if checkpoint_activations else nn.Sequential
    for stage in ("stage2", "stage3", "stage4"):
        setattr(trunk, stage, kind(*(_Fusing(module) for module in trunk.get_submodule(stage).children())))
    trunk.layer1 = kind(*trunk.get_submodule("layer1").children())
    return trunk


def _unit(channels: int, out_channels: int) -> tuple[nn.Conv2d, nn.Sequential]:
    """A 1x1 convolution, and BatchNorm with ReLU: two modules, to match the numbering in official files."""
    norm = nn.Sequential(nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
    return nn.Conv2d(channels, out_channels, kernel_size=1, bias=False), norm


def _upsampled(images: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", align_corners=True)


def _own_name(name: str, trunk: Collection[str]) -> str:
    """The name in this class of a weight in an official file; other names are unchanged."""
    for official, own in OFFICIAL_NAMES.items():
        if name.startswith(official):
            return own + name.removeprefix(official)
    return f"trunk.{name}" if name in trunk else name
