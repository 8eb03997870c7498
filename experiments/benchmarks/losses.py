"""Time and memory of CE + CPG beside cross-entropy alone, forward and backward.

    python experiments/benchmarks/losses.py --labels path/to/camvid/valannot

prints a table of losses, and with --steps one of whole training steps. Times are medians of interleaved repetitions, as
ratios to the first column, with their spread (10th to 90th percentile); memory is the high-water mark of a fresh process
above its inputs, gradient included (Linux). Each table stands twice: with glibc's allocator told to keep its memory, where
arithmetic is what is left to compare, and as it comes, where fresh pages cost more than the arithmetic.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
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
KEEP = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}

Loss = Callable[[Tensor, Tensor], Tensor]


def plain(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the enlarged logits."""
    return F.cross_entropy(enlarged(logits, target), target, ignore_index=255)


def definition(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus CPG of the enlarged logits, as defined."""
    large = enlarged(logits, target)
    return F.cross_entropy(large, target, ignore_index=255) + cpg_loss(large, target)


def enlarged(logits: Tensor, target: Tensor) -> Tensor:
    """Logits at label size."""
    if logits.shape[-2:] == target.shape[-2:]:
        return logits
    return F.interpolate(logits, target.shape[-2:], mode="bilinear")


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


def interleaved(calls: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each call, in turn, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repetition:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def loss_times(shape: str, stride: int, folder: Path | None, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each loss's forward and backward pass."""
    logits, target = problem(shape, stride, folder)

    def call(loss: Loss) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(logits, target), logits)

    return interleaved({name: call(loss) for name, loss in LOSSES.items()}, repetitions)


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


def peak(shape: str, stride: int, folder: Path | None, loss: str) -> float:
    """Bytes at the high-water mark of one forward and backward pass above its inputs."""
    warm = torch.randn(1, 2, 4, 4, requires_grad=True)
    torch.autograd.grad(LOSSES[loss](warm, torch.zeros(1, 4, 4, dtype=torch.long)), warm)
    logits, target = problem(shape, stride, folder)
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew
    before = memory("VmRSS")
    torch.autograd.grad(LOSSES[loss](logits, target), logits)
    return memory("VmHWM") - before


def memory(field: str) -> float:
    """A field of this process's status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return float(line.split()[1]) * 1024


def cell(seconds: list[float], base: float) -> str:
    """The median's ratio to the base, and the spread."""
    low, *_, high = statistics.quantiles(seconds, n=10)
    return f"{statistics.median(seconds) / base:.2f} ({low / base:.2f}-{high / base:.2f})"


def table(title: str, times: dict[str, dict[str, list[float]]], peaks: dict[str, dict[str, float]]) -> None:
    """Print a Markdown table: seconds of the first loss, the others' ratios to it, and memory."""
    first, *others = next(iter(times.values()))
    print(
        f"\n{title}\n\n| | {first} | {' | '.join(others)} |{' memory: ' + ', '.join(others) + ' by ' + first + ' |' if peaks else ''}"
    )
    print("|---" * (len(others) + 2 + bool(peaks)) + "|")
    for name, seconds in times.items():
        base = statistics.median(seconds[first])
        row = [
            name,
            f"{base * 1000:.0f} ms {cell(seconds[first], base)[5:]}",
            *(cell(seconds[other], base) for other in others),
        ]
        if peaks:
            marks = peaks[name]
            ratios = ", ".join(f"{marks[other] / marks[first]:.2f}" for other in others)
            row.append(f"{ratios} ({marks[first] / 2**20:.0f} MiB)")
        print(f"| {' | '.join(row)} |", flush=True)


def fresh(arguments: argparse.Namespace, environment: dict[str, str], *job: object) -> object:
    """What a job gives in a process of its own."""
    command = [sys.executable, __file__, "--repetitions", str(arguments.repetitions), "--job", json.dumps(job)]
    if arguments.labels:
        command += ["--labels", str(arguments.labels)]
    output = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return json.loads(output.stdout.splitlines()[-1])


def main() -> None:
    """Run a job for another process, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path, help="folder of CamVid label files; drawn ones without")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--steps", action="store_true", help="whole training steps instead of losses")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    jobs = {"loss": loss_times, "step": step_times, "peak": peak}
    if arguments.job:
        kind, name, number, *rest = arguments.job
        last = rest[0] if rest else arguments.repetitions
        print(json.dumps(jobs[kind](name, number, arguments.labels, last)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.labels or 'drawn labels'}")
    for title, environment in (("Allocator keeps its memory", KEEP), ("Allocator as it comes", {})):
        if arguments.steps:
            cases = {f"{size}, C={classes}": ("step", size, classes) for size in STEPS for classes in (19, 171)}
        else:
            cases = {f"{shape}, stride {stride}": ("loss", shape, stride) for shape in SHAPES for stride in STRIDES}
        times = {name: fresh(arguments, environment, *case) for name, case in cases.items()}
        peaks = {
            name: {loss: fresh(arguments, environment, "peak", *case[1:], loss) for loss in LOSSES}
            for name, case in cases.items()
            if not arguments.steps and not environment
        }
        table(title, times, peaks)


if __name__ == "__main__":
    main()
