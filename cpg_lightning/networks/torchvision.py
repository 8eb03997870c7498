"""torchvision's DeepLabV3 and LRASPP, without their final interpolation."""

import pickle

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights, WeightsEnum
from torchvision.models.segmentation import (
    DeepLabV3_ResNet50_Weights,
    LRASPP_MobileNet_V3_Large_Weights,
    deeplabv3_resnet50,
    lraspp_mobilenet_v3_large,
)

from cpg_lightning.networks.base import SegmentationNetwork, check_num_classes
from cpg_lightning.networks.weights import load_into


class DeepLabV3(SegmentationNetwork):
    """torchvision's ``deeplabv3_resnet50``: logits at stride 8, with torchvision's parameter names.

    Args:
        num_classes: Number of classes C.
        aux_loss: Whether to add the auxiliary head, an FCN on the third stage of the backbone.
        weights: Name of ``DeepLabV3_ResNet50_Weights`` for the whole network, e.g. ``COCO_WITH_VOC_LABELS_V1``; random
            weights by default. For another number of classes, the last layer of each head is initialised randomly.
        weights_backbone: Name of ``ResNet50_Weights`` for the backbone, e.g. ``IMAGENET1K_V2``.

    Raises:
        ValueError: If there are fewer than 2 classes, torchvision has no weights of that name, or both names are given.
        FileNotFoundError: If the weights are not on disk and cannot be downloaded.

    Source: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv 1706.05587.

    Example:
        >>> import torch
        >>> network = DeepLabV3(num_classes=19, aux_loss=True)
        >>> {name: tuple(logits.shape) for name, logits in network(torch.rand(2, 3, 64, 96)).items()}
        {'out': (2, 19, 8, 12), 'aux': (2, 19, 8, 12)}
    """

    pretrained_arguments = ("weights", "weights_backbone")
    memory_format = torch.channels_last

    def __init__(
        self,
        num_classes: int,
        aux_loss: bool = False,
        weights: str | None = None,
        weights_backbone: str | None = None,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        _refuse_both(weights, weights_backbone)
        whole = _named(DeepLabV3_ResNet50_Weights, weights)
        backbone = _named(ResNet50_Weights, weights_backbone)
        classes = num_classes if whole is None else len(whole.meta["categories"])
        model = deeplabv3_resnet50(num_classes=classes, aux_loss=aux_loss or whole is not None, weights_backbone=None)
        if whole is not None:
            load_into(model, _downloaded(whole, "weights"))
            for head in (model.classifier, model.aux_classifier):
                head[-1] = _for_classes(head[-1], num_classes)
        elif backbone is not None:
            state = _downloaded(backbone, "weights_backbone")
            load_into(model.backbone, {name: w for name, w in state.items() if not name.startswith("fc.")})
        self.backbone = model.backbone
        self.classifier = model.classifier
        self.aux_classifier = model.aux_classifier if aux_loss else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See :meth:`SegmentationNetwork.forward`."""
        features = self.backbone(images)
        logits = {"out": self.classifier(features["out"])}
        if self.aux_classifier is not None:
            logits["aux"] = self.aux_classifier(features["aux"])
        return logits


class LRASPP(SegmentationNetwork):
    """torchvision's ``lraspp_mobilenet_v3_large``: logits at stride 8, with torchvision's parameter names.

    Args:
        num_classes: Number of classes C.
        weights: Name of ``LRASPP_MobileNet_V3_Large_Weights`` for the whole network, e.g. ``COCO_WITH_VOC_LABELS_V1``;
            random weights by default. For another number of classes, the last layers are initialised randomly.
        weights_backbone: Name of ``MobileNet_V3_Large_Weights`` for the backbone, e.g. ``IMAGENET1K_V2``.
        batch_norm_momentum: Weight of a training batch in the backbone's running statistics. With torchvision's 0.01
            they lag behind for a thousand steps; choose about 0.1 for shorter trainings from random weights.

    Raises:
        ValueError: If there are fewer than 2 classes, torchvision has no weights of that name, or both names are given.
        FileNotFoundError: If the weights are not on disk and cannot be downloaded.

    Source: Howard et al., "Searching for MobileNetV3", arXiv 1905.02244.

    Example:
        >>> import torch
        >>> LRASPP(num_classes=19)(torch.rand(2, 3, 64, 96))["out"].shape
        torch.Size([2, 19, 8, 12])
    """

    pretrained_arguments = ("weights", "weights_backbone")
    memory_format = torch.channels_last

    def __init__(
        self,
        num_classes: int,
        weights: str | None = None,
        weights_backbone: str | None = None,
        batch_norm_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        _refuse_both(weights, weights_backbone)
        whole = _named(LRASPP_MobileNet_V3_Large_Weights, weights)
        backbone = _named(MobileNet_V3_Large_Weights, weights_backbone)
        classes = num_classes if whole is None else len(whole.meta["categories"])
        model = lraspp_mobilenet_v3_large(num_classes=classes, weights_backbone=None)
        if whole is not None:
            load_into(model, _downloaded(whole, "weights"))
            model.classifier.low_classifier = _for_classes(model.classifier.low_classifier, num_classes)
            model.classifier.high_classifier = _for_classes(model.classifier.high_classifier, num_classes)
        elif backbone is not None:
            names = model.backbone.state_dict()
            state = {
                name.removeprefix("features."): weight
                for name, weight in _downloaded(backbone, "weights_backbone").items()
            }
            load_into(model.backbone, {name: weight for name, weight in state.items() if name in names})
        self.backbone = model.backbone
        self.classifier = model.classifier
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = batch_norm_momentum

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See :meth:`SegmentationNetwork.forward`."""
        return {"out": self.classifier(self.backbone(images))}


def _refuse_both(weights: str | None, weights_backbone: str | None) -> None:
    if weights is not None and weights_backbone is not None:
        raise ValueError(
            f"expected weights or weights_backbone, got both ({weights}, {weights_backbone}); "
            "the weights of a whole network include its backbone"
        )


def _named(family: type[WeightsEnum], name: str | None) -> WeightsEnum | None:
    """The weights of that name; the error for an unknown name lists all names."""
    if name is None:
        return None
    if name not in family.__members__:
        raise ValueError(f"expected one of {', '.join(family.__members__)} from {family.__name__}, got {name!r}")
    return family[name]


def _downloaded(weights: WeightsEnum, option: str) -> dict[str, Tensor]:
    """The weights from torch's cache, downloaded if needed, and read without running code in the file."""
    try:
        state: dict[str, Tensor] = weights.get_state_dict(check_hash=True, weights_only=True)
    except OSError as error:  # urllib's errors are OSErrors
        raise FileNotFoundError(
            f"the weights {weights} could not be downloaded ({error}); on a machine with a network, download {weights.url} and "
            f"put the file into {torch.hub.get_dir()}/checkpoints here, or start from random weights: --model.network.{option} "
            "null"
        ) from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"expected only tensors in the file of {weights} in {torch.hub.get_dir()}/checkpoints"
        ) from error
    return state


def _for_classes(layer: nn.Conv2d, num_classes: int) -> nn.Conv2d:
    """The last layer, replaced if it has another number of classes."""
    if layer.out_channels == num_classes:
        return layer
    return nn.Conv2d(layer.in_channels, num_classes, kernel_size=1)
