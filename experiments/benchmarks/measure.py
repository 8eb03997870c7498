"""Times and memory of calls on a device, as rows of a Markdown table."""

import ctypes
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
# glibc's allocator told to keep its memory: without, fresh pages can cost more than the arithmetic.
KEEP = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "80000000000",
    "MALLOC_TOP_PAD_": "1000000000",
}

CELL = 96  # pixels between the random values that drawn regions come from


@dataclass(frozen=True)
class Options:
    """What every part is told.

    Attributes:
        device: Where it measures.
        repetitions: Measurements of each call.
        root: Folder of CamVid's layout.
        cityscapes: Root of the dataset, unpacked.
        coco_stuff: Likewise.
        ade20k: Likewise.
    """

    device: torch.device
    repetitions: int
    root: str | None = None
    cityscapes: str | None = None
    coco_stuff: str | None = None
    ade20k: str | None = None


def interleaved(
    calls: Mapping[str, Callable[[], object]], repetitions: int, device: torch.device, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call, in turn, after some that do not count; on a GPU between two events."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    timed = _timed_by_events if device.type == "cuda" else _timed
    for repetition in range(repetitions + warm_up):
        for name, call in calls.items():
            duration = timed(call)
            if repetition >= warm_up:
                seconds[name].append(duration)
    return seconds


def peak(call: Callable[[], object], device: torch.device) -> float:
    """Bytes during a call at most, above what there was before: of the GPU's allocator, or of this process (Linux, glibc)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - allocated
    ctypes.CDLL(None).malloc_trim(0)  # else the call could take memory that was freed before and is still resident
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    resident = _memory("VmRSS")
    call()
    return _memory("VmHWM") - resident


def apart(device: torch.device, job: Callable[..., T], *arguments: object, keep: bool = False) -> T:
    """What a job returns; on the CPU from a process of its own, whose memory is not that of the jobs before it.

    Args:
        device: Where the job measures.
        job: A function of a module.
        arguments: Its arguments.
        keep: Whether the process's allocator is told to keep its memory.
    """
    if device.type != "cpu":
        return job(*arguments)
    with (
        _environment({**NO_GPU, **(KEEP if keep else {})}),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(job, *arguments).result()


@cache
def regions(images: int, classes: int, height: int, width: int) -> Tensor:
    """Drawn labels, int64 (images, height, width): smooth regions of 12 classes an image or fewer, and a void frame.

    About 5 % of the pixels are next to another class, as in labels of streets at this size.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(images):
        chosen = torch.randperm(classes, generator=generator)[:12]
        coarse = torch.randn(1, len(chosen), max(2, height // CELL), max(2, width // CELL), generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        drawn.append(chosen[fine[0].argmax(dim=0)])
    target = torch.stack(drawn)
    border = height // 64
    target[:, :border], target[:, -border:] = 255, 255
    return target


def milliseconds(seconds: list[float]) -> str:
    """The median and the spread (10th to 90th percentile) as a share of it."""
    base = statistics.median(seconds)
    digits = 0 if base > 0.1 else 1 if base > 0.01 else 2
    return f"{base * 1000:.{digits}f} ms{_spread(seconds, base)}"


def ratio(seconds: list[float], others: list[float]) -> str:
    """The median's ratio to that of others, and its spread."""
    base = statistics.median(others)
    return f"{statistics.median(seconds) / base:.2f}{_spread(seconds, base)}"


def gibibytes(number: float) -> str:
    """Bytes in GiB."""
    return f"{number / 2**30:.2f} GiB"


def row(*cells: object) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def heading(*cells: object) -> Iterator[str]:
    """The first two rows of a Markdown table, after an empty line."""
    yield ""
    yield row(*cells)
    yield row(*["---"] * len(cells))


def _spread(seconds: Sequence[float], base: float) -> str:
    if len(seconds) < 2:
        return ""
    low, *_, high = statistics.quantiles(seconds, n=10, method="inclusive")
    return f" ({low / base:.2f}-{high / base:.2f})"


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _timed_by_events(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _memory(field: str) -> float:
    """A field of this process's status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return float(line.split()[1]) * 1024
