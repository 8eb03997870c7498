"""The number of cores that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path

SHARE = "CPG_CORES"  # environment variable by which `cpg study --jobs` divides the cores among its runs


def available_cores(root: Path = Path("/")) -> int:
    """The number of cores that this process may use.

    The limits are the CPU affinity, the CPU quotas of the process's cgroup and its parents, and the environment
    variable ``CPG_CORES``. Containers and cluster schedulers set affinity and quotas, which ``os.cpu_count()`` ignores.

    Args:
        root: Folder that contains ``proc`` and ``sys``.
    """
    # macOS and Windows have no affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(SHARE, "")
    shares = [int(share)] if share.isdigit() else []
    return max(1, int(min([cores, *_quotas(root), *shares])))


def _quotas(root: Path) -> Iterator[float]:
    """The CPU quotas in cores, for version 2 and version 1 of cgroups."""
    listing, mounted = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    if not listing.is_file():
        return
    for line in listing.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folders = _upwards(mounted, path)
            limits = [_numbers(folder / "cpu.max") for folder in folders]
        elif "cpu" in controllers.split(","):
            folders = _upwards(mounted / "cpu", path)
            limits = [
                [*_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us")] for folder in folders
            ]
        else:
            continue
        yield from (quota / period for quota, period in (limit for limit in limits if len(limit) == 2) if quota > 0)


def _upwards(top: Path, path: str) -> list[Path]:
    """The folder of a cgroup and its parents. In a container the path may be the host's, where only the top exists."""
    folder = top / path.lstrip("/")
    return [folder, *(above for above in folder.parents if above.is_relative_to(top))]


def _numbers(file: Path) -> list[int]:
    """The integers in a file. No limit is "max" in version 2, which is skipped, and -1 in version 1."""
    words = file.read_text().split() if file.is_file() else []
    return [int(word) for word in words if word.lstrip("-").isdigit()]
