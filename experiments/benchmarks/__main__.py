"""Measures the package: losses, training steps, metrics, networks, data, launches and training.

    python experiments/benchmarks [losses] [other_losses] [training_steps] [metrics] [networks]
        [data] [launches] [training] --device cpu --output FILE.md

Every part where none is named. Times are medians of interleaved repetitions with their spread (10th to 90th percentile).
"""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import torch
from measure import Options

PARTS = ("losses", "other_losses", "training_steps", "metrics", "networks", "data", "launches", "training")
# The options of which a part needs one.
DATA = {"data": ("root", "cityscapes", "coco_stuff", "ade20k"), "training": ("root",)}


def main() -> None:
    """Print the report of each part, and write it to a file."""
    parser = argparse.ArgumentParser("python experiments/benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda", help="where to measure; cpu by default")
    parser.add_argument("--output", type=Path, help="Markdown file for the report")
    parser.add_argument("--repetitions", type=int, default=5, help="measurements of each call; 5 by default")
    parser.add_argument("--root", help="folder in CamVid's layout, for training and for labels in colours")
    for dataset in ("cityscapes", "coco_stuff", "ade20k"):
        parser.add_argument(f"--{dataset}", help="root of the dataset, unpacked, for data")
    arguments = vars(parser.parse_args())
    named, output = arguments.pop("parts"), arguments.pop("output")
    for part in named:
        if part not in PARTS:
            parser.error(f"expected parts out of {', '.join(PARTS)}, got {part}")
    missing = {part: needs for part, needs in DATA.items() if not any(arguments[need] for need in needs)}
    for part in named:
        if part in missing:
            parser.error(f"expected data for {part}; give --{' or --'.join(missing[part])}")
    if arguments["repetitions"] < 1:
        parser.error(f"expected repetitions to be 1 or more, got {arguments['repetitions']}")
    try:
        options = Options(**{**arguments, "device": checked_device(arguments["device"])})
    except ValueError as error:
        parser.error(str(error))
    if output:
        output.write_text("")  # a folder that is not there is said now, not after the first part
    for line in report(options, named or PARTS, missing):
        print(line, flush=True)
        if output:
            with output.open("a") as file:
                file.write(f"{line}\n")


def checked_device(name: str) -> torch.device:
    """A device of this machine.

    Raises:
        ValueError: If it has no such device.
    """
    if name not in ("cpu", "cuda"):
        raise ValueError(f"expected the device to be cpu or cuda, got {name}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"expected a device of this machine, got cuda, but torch {torch.__version__} finds no GPU; "
            "measure with --device cpu, or install torch with CUDA"
        )
    return torch.device(name)


def report(options: Options, parts: list[str] | tuple[str, ...], missing: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """The lines of the report."""
    yield f"`python experiments/benchmarks {shlex.join(sys.argv[1:])}`".replace(" `", "`")
    yield ""
    yield f"{machine(options.device)}."
    for part in parts:
        yield f"\n## {part.capitalize().replace('_', ' ')}\n"
        if part in missing:
            yield f"Not measured: no data was given (--{' or --'.join(missing[part])})."
        else:
            yield from import_module(part).table(options)


def machine(device: torch.device) -> str:
    """The device in words, and what measures on it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = [f"{_processor()}, {cores} cores of which torch uses {torch.get_num_threads()}"]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        words = [f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}", *words]
    else:
        words.append("no figure is from a GPU")
    return "; ".join([*words, f"torch {torch.__version__}", f"Python {platform.python_version()}"])


def _processor() -> str:
    """The processor's name, where the system says it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
