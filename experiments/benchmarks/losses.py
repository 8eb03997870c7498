"""Time and memory of CE + CPG beside cross-entropy alone, forward and backward.

    python experiments/benchmarks/losses.py --labels path/to/camvid/valannot

prints a table of losses, and with --steps one of whole training steps. Times are medians of interleaved repetitions, as
ratios to the first column, with their spread (10th to 90th percentile); memory is the high-water mark of a fresh process
above its inputs, gradient included (Linux). Each table stands twice: with glibc's allocator told to keep its memory, where
arithmetic is what is left to compare, and as it comes, where fresh pages cost more than the arithmetic.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import KEEP, fresh, interleaved, milliseconds, peak, ratio, row
from PIL import Image
from torch import Tensor

from cpg_lightning import CrossEntropyCPGLoss, cpg_loss
from cpg_lightning.networks import LRASPP

SHAPES = {
    "Cityscapes 2x19x512x1024": (2, 19, 512, 1024),
    "ADE20K 2x150x520x520": (2, 150, 520, 520),
    "COCO-Stuff 2x171x520x520": (2, 171, 520, 520),
}
STRIDES = (1, 8, 4)
STEPS = {"LRASPP 8x240x320": (8, 240, 320), "LRASPP 4x512x512": (4, 512, 512)}

Loss = Callable[[Tensor, Tensor], Tensor]
QUICK = ["CE", "CE+CPG", "k=5", "k=7"]


def plain(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the upsampled logits."""
    return F.cross_entropy(F.interpolate(logits, target.shape[-2:], mode="bilinear"), target, ignore_index=255)


def definition(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus CPG of the upsampled logits, as defined."""
    large = F.interpolate(logits, target.shape[-2:], mode="bilinear")
    return F.cross_entropy(large, target, ignore_index=255) + cpg_loss(large, target)


def compiled() -> dict[str, Loss]:
    """The definition through ``torch.compile``, where there is a compiler."""
    return {"compiled": torch.compile(definition, dynamic=False)} if shutil.which("c++") else {}


LOSSES: dict[str, Loss] = {
    "CE": plain,
    "CE+CPG": CrossEntropyCPGLoss(),
    "k=5": CrossEntropyCPGLoss(kernel_size=5),
    "k=7": CrossEntropyCPGLoss(kernel_size=7),
    "definition": definition,
    **compiled(),
}


def labels(size: tuple[int, int, int], classes: int, folder: Path | None) -> Tensor:
    """Real labels of (images, height, width), enlarged and void where they are no class, or drawn blocks."""
    images, height, width = size
    if folder is None:
        blocks = torch.randint(0, classes, (images, height // 16 + 1, width // 16 + 1))
        return blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width].contiguous()
    files = sorted(folder.glob("*.png"))
    chosen = [files[index * len(files) // images] for index in range(images)]
    maps = [np.array(Image.open(file).resize((width, height), Image.Resampling.NEAREST)) for file in chosen]
    target = torch.from_numpy(np.stack(maps)).long()
    return target.where(target < 11, 255)


def problem(shape: str, stride: int, folder: Path | None) -> tuple[Tensor, Tensor]:
    """Logits at a stride, and the target."""
    torch.manual_seed(0)
    images, classes, height, width = SHAPES[shape]
    logits = torch.randn(images, classes, -(-height // stride), -(-width // stride), requires_grad=True)
    return logits, labels((images, height, width), classes, folder)


def loss_times(
    shape: str, stride: int, names: list[str], folder: Path | None, repetitions: int
) -> dict[str, list[float]]:
    """Seconds of each loss's forward and backward pass."""
    logits, target = problem(shape, stride, folder)

    def call(loss: Loss) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(logits, target), logits)

    return interleaved({name: call(LOSSES[name]) for name in names}, repetitions)


def step_times(size: str, classes: int, folder: Path | None, repetitions: int) -> dict[str, list[float]]:
    """Seconds of a training step of LRASPP with each loss."""
    torch.manual_seed(0)
    images, height, width = STEPS[size]
    network, photographs = LRASPP(classes), torch.randn(images, 3, height, width)
    target = labels((images, height, width), classes, folder)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)

    def call(loss: Loss) -> Callable[[], object]:
        def step() -> None:
            optimizer.zero_grad()
            loss(network(photographs)["out"], target).backward()
            optimizer.step()

        return step

    return interleaved({name: call(LOSSES[name]) for name in ("CE", "CE+CPG")}, repetitions)


def loss_peak(shape: str, stride: int, loss: str, folder: Path | None, _: int) -> float:
    """Bytes at the high-water mark of one forward and backward pass above its inputs."""
    warm = torch.randn(1, 2, 4, 4, requires_grad=True)
    torch.autograd.grad(LOSSES[loss](warm, torch.zeros(1, 4, 4, dtype=torch.long)), warm)
    logits, target = problem(shape, stride, folder)
    return peak(lambda: torch.autograd.grad(LOSSES[loss](logits, target), logits))


JOBS: dict[str, Callable[..., object]] = {"loss": loss_times, "step": step_times, "peak": loss_peak}


def loss_table(environment: dict[str, str], options: list[str]) -> None:
    """A row a shape and stride; the slow losses are timed apart, as the memory they churn through disturbs the others."""
    slow = ["definition", *compiled()]
    row("", "CE", *(f"{name} by CE" for name in (*QUICK[1:], *slow)), "memory by CE")
    row(*["---"] * (3 + len(QUICK) - 1 + len(slow)))
    for shape in SHAPES:
        for stride in STRIDES:
            quick = fresh(["loss", shape, stride, QUICK], environment, *options)
            others = fresh(["loss", shape, stride, ["CE", *slow]], environment, *options)
            peaks = {name: fresh(["peak", shape, stride, name], {}, *options) for name in (*QUICK, "definition")}
            row(
                f"{shape}, stride {stride}",
                milliseconds(quick["CE"]),
                *(ratio(quick[name], quick["CE"]) for name in QUICK[1:]),
                *(ratio(others[name], others["CE"]) for name in slow),
                ", ".join(f"{name} {value / peaks['CE']:.2f}" for name, value in peaks.items() if name != "CE")
                + f" ({peaks['CE'] / 2**20:.0f} MiB)",
            )


def step_table(environment: dict[str, str], options: list[str]) -> None:
    """A row a size of the batch and number of classes."""
    row("LRASPP", "CE", "CE+CPG by CE")
    row("---", "---", "---")
    for size in STEPS:
        for classes in (19, 171):
            times = fresh(["step", size, classes], environment, *options)
            row(f"{size}, {classes} classes", milliseconds(times["CE"]), ratio(times["CE+CPG"], times["CE"]))


def main() -> None:
    """Run a job for another process, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path, help="folder of CamVid label files; drawn ones without")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--steps", action="store_true", help="whole training steps instead of losses")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        kind, *details = arguments.job
        print(json.dumps(JOBS[kind](*details, arguments.labels, arguments.repetitions)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.labels or 'drawn labels'}")
    options = ["--repetitions", str(arguments.repetitions)]
    options += ["--labels", str(arguments.labels)] if arguments.labels else []
    for title, environment in (("Allocator keeps its memory", KEEP), ("Allocator as it comes", {})):
        print(f"\n{title}\n")
        (step_table if arguments.steps else loss_table)(environment, options)


if __name__ == "__main__":
    main()
