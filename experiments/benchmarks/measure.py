"""Times and memory, as the benchmarks beside this file measure them."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# glibc's allocator told to keep its memory: without, fresh pages can cost more than the arithmetic.
KEEP = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "80000000000",
    "MALLOC_TOP_PAD_": "1000000000",
}


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


def peak(call: Callable[[], object]) -> float:
    """Bytes at this process's high-water mark during a call, above what it had before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew
    before = _memory("VmRSS")
    call()
    return _memory("VmHWM") - before


def fresh(job: list[object], environment: dict[str, str], *options: str) -> object:
    """What this script prints as JSON in a process of its own, started with ``--job``."""
    command = [sys.executable, sys.argv[0], *options, "--job", json.dumps(job)]
    output = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(output.stdout.splitlines()[-1])


def milliseconds(seconds: list[float]) -> str:
    """The median and the spread (10th to 90th percentile) as a share of it."""
    base = statistics.median(seconds)
    low, *_, high = statistics.quantiles(seconds, n=10, method="inclusive")
    digits = 0 if base > 0.01 else 1
    return f"{base * 1000:.{digits}f} ms ({low / base:.2f}-{high / base:.2f})"


def ratio(seconds: list[float], others: list[float]) -> str:
    """The median's ratio to that of others, and its spread."""
    base = statistics.median(others)
    low, *_, high = statistics.quantiles(seconds, n=10, method="inclusive")
    return f"{statistics.median(seconds) / base:.2f} ({low / base:.2f}-{high / base:.2f})"


def row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def _memory(field: str) -> float:
    """A field of this process's status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return float(line.split()[1]) * 1024
