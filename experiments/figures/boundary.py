"""Draws boundary.png: what CPG looks at in a label, and what it changes where logits are coarser than the label."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb
from torch import Tensor

from cpg_lightning import CrossEntropyCPGLoss
from cpg_lightning.data import ShapesDataModule
from cpg_lightning.losses.cpg import boundary_entries

IMAGE = 8  # of the validation images
STRIDE = 8  # pixels of the label to one of the logits, as in DeepLabV3
STEPS = 100
TEXT = "#7d8590"  # readable on white and on black
WRONG = "#ff3b30"


def fitted(criterion: CrossEntropyCPGLoss, target: Tensor, num_classes: int) -> Tensor:
    """Classes (1, H, W) of coarse logits that were fitted to one label."""
    height, width = target.shape[-2:]
    logits = torch.zeros(1, num_classes, height // STRIDE, width // STRIDE, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        criterion(logits, target).backward()
        optimizer.step()
    return F.interpolate(logits, size=(height, width), mode="bilinear").argmax(dim=1)


def main() -> None:
    """Draw the figure beside this file."""
    data = ShapesDataModule(num_workers=0)
    data.setup("validate")
    sample = data.datasets["val"][IMAGE]
    target = sample["mask"].long().unsqueeze(0)
    greys = np.linspace(0.25, 0.75, data.num_classes)
    gradient, boundary = boundary_entries(target, data.num_classes)
    strength = (gradient * boundary).float().square().sum(dim=(1, 2)).sqrt()[0]  # (H, W)

    figure, axes = plt.subplots(1, 4, figsize=(12, 3.6), layout="constrained")
    axes[0].imshow(sample["image"].permute(1, 2, 0))
    axes[0].set_title("image")
    axes[1].imshow(np.ma.masked_equal(strength, 0), cmap="viridis", vmin=0)
    axes[1].set_title("what CPG looks at:\nthe gradient of the label")
    for axis, name, cpg_weight in ((axes[2], "CE", 0.0), (axes[3], "CE + CPG", 1.0)):
        predicted = fitted(CrossEntropyCPGLoss(cpg_weight), target, data.num_classes)
        wrong = (predicted != target)[0]
        picture = np.repeat(greys[predicted[0], None], 3, axis=-1)
        picture[wrong] = to_rgb(WRONG)
        axis.imshow(picture)
        axis.set_title(f"{name}, {STEPS} steps:\n{wrong.sum()} pixels wrong")
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.title.set_color(TEXT)
        for spine in axis.spines.values():
            spine.set_color(TEXT)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110, transparent=True, bbox_inches="tight", pad_inches=0.05)


if __name__ == "__main__":
    main()
