"""Time of the evaluation's metrics on one image, beside LRASPP's own forward pass on it.

    python experiments/benchmarks/metrics.py --cityscapes path/to/cityscapes

The labels are Cityscapes' at half size, 512x1024; predictions are the labels shifted by 3 pixels, with patches of other
classes. Medians of interleaved repetitions, with their spread.
"""

import argparse

import cv2
import numpy as np
import torch
from measure import interleaved, milliseconds, ratio, row
from torch import Tensor

from cpg_lightning.data import CityscapesDataModule
from cpg_lightning.metrics import BoundaryF1Score, BoundaryIoU, ClassIoU, TrimapJaccardIndex
from cpg_lightning.networks import LRASPP

SIZE = (512, 1024)
PATCHES = 0.05  # share of the 8x8 blocks that are of another class


def maps(root: str) -> list[tuple[Tensor, Tensor]]:
    """Prediction and label, (1, H, W), of each training image."""
    data = CityscapesDataModule(root, crop_size=SIZE)
    table, rng = data.label_table(), np.random.default_rng(0)
    pairs = []
    for _, path in data.files("train"):
        values = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        label = table[cv2.resize(values, SIZE[::-1], interpolation=cv2.INTER_NEAREST_EXACT)].astype(np.int64)
        prediction = np.roll(np.where(label == 255, 0, label), (3, -2), axis=(0, 1))
        blocks = rng.integers(0, 19, (SIZE[0] // 8, SIZE[1] // 8)).repeat(8, axis=0).repeat(8, axis=1)
        chosen = (rng.random((SIZE[0] // 8, SIZE[1] // 8)) < PATCHES).repeat(8, axis=0).repeat(8, axis=1)
        prediction = np.where(chosen, blocks, prediction)
        pairs.append((torch.from_numpy(prediction)[None], torch.from_numpy(label)[None]))
    return pairs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cityscapes", required=True, help="root of the dataset, unpacked")
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    pairs = maps(options.cityscapes)
    network = LRASPP(19).eval()
    network.to(memory_format=network.memory_format)
    image = torch.rand(1, 3, *SIZE).contiguous(memory_format=network.memory_format)
    metrics = {
        "mIoU": ClassIoU(19),
        "boundary IoU": BoundaryIoU(19, CityscapesDataModule.dilation_ratio),
        "boundary F1, five distances": BoundaryF1Score(19),
        "trimap IoU, five widths": TrimapJaccardIndex(19),
    }

    def all_of_them(index: int) -> None:
        for metric in metrics.values():
            metric.update(*pairs[index])

    def forward() -> None:
        with torch.inference_mode():
            network(image)

    turns = {name: iter(range(10**9)) for name in [*metrics, "all"]}
    calls = {
        name: lambda name=name, metric=metric: metric.update(*pairs[next(turns[name]) % len(pairs)])
        for name, metric in metrics.items()
    }
    seconds = interleaved(
        {"LRASPP's forward pass": forward, **calls, "all": lambda: all_of_them(next(turns["all"]) % len(pairs))},
        options.repetitions,
    )
    row("", "an image of 512x1024", "by the forward pass")
    row(*["---"] * 3)
    for name, values in seconds.items():
        row(name, milliseconds(values), ratio(values, seconds["LRASPP's forward pass"]))


if __name__ == "__main__":
    main()
