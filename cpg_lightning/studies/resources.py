"""GPUs and cores of runs that run at the same time."""

import os
import shutil
import subprocess

from cpg_lightning.cores import SHARE, available_cores


def shares(jobs: int) -> list[dict[str, str]]:
    """The environment variables of each of several runs: its GPU, and its share of the cores.

    Each run gets one GPU, in turn. Runs share GPUs if there are fewer GPUs than runs. A single run gets all resources
    and no variables. ``OMP_NUM_THREADS`` and ``CPG_CORES`` (which determines the default of ``num_workers``) keep the
    user's values.

    Args:
        jobs: Number of runs at the same time.
    """
    if jobs == 1:
        return [{}]
    cores = str(max(1, available_cores() // jobs))
    common = {name: cores for name in ("OMP_NUM_THREADS", SHARE) if name not in os.environ}
    devices = gpus()
    return [
        {**common, **({"CUDA_VISIBLE_DEVICES": devices[job % len(devices)]} if devices else {})} for job in range(jobs)
    ]


def gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; found without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        # CUDA ignores all names from the first invalid name on.
        invalid = [index for index, name in enumerate(names) if name in ("", "-1")]
        return names[: invalid[0]] if invalid else names
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run([program, "--list-gpus"], capture_output=True, text=True, check=False)
    return [
        str(index) for index, _ in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU "))
    ]
