"""A network of one layer, for tests that need one that is fast and not one that is good."""

import torch
from torch import nn

from cpg_lightning.networks import SegmentationNetwork


class Tiny(SegmentationNetwork):
    """Colours to classes, at stride 4."""

    def __init__(self, num_classes: int, aux_loss: bool = False) -> None:
        super().__init__()
        self.out = nn.Conv2d(3, num_classes, kernel_size=4, stride=4)
        self.aux = nn.Conv2d(3, num_classes, kernel_size=4, stride=4) if aux_loss else None

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = {"out": self.out(images)}
        return logits if self.aux is None else {**logits, "aux": self.aux(images)}
