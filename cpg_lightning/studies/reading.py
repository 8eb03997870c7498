"""Reading run folders from their plain files, as untrusted data."""

import csv
import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cpg_lightning.runs.folder import CELL, EXPERIMENT, METRICS, SUMMARY
from cpg_lightning.studies.statistics import AbsentClasses, Counts

COUNTS = "val-counts.npz"
VERSION = 1  # of experiment.json
FACTORS = ("data", "network", "criterion", "recipe", "inference")
LARGEST_TEXT, LARGEST_COUNTS = 2**28, 2**31  # bytes


@dataclass(frozen=True)
class Part:
    """A part of an experiment, such as its network: a readable name, and a digest that identifies it."""

    name: str
    digest: str


@dataclass
class Run:
    """A training, read from its folder.

    Attributes:
        folder: The run's folder.
        key: Experiment key: the same for runs that differ only in their seed.
        name: Readable name, without the seed.
        seed: Seed.
        parts: The parts of the experiment, by factor.
        versions: Versions of the packages in the training.
        scores: Scores of the last epoch by log key; None if the training has not finished.
        history: Scores by log key and epoch.
    """

    folder: Path
    key: str
    name: str
    seed: int
    parts: dict[str, Part]
    versions: dict[str, str]
    scores: dict[str, float] | None = None
    history: dict[str, dict[int, float]] = field(default_factory=dict)


@dataclass
class EvaluationCounts:
    """Pixel counts of each image in an evaluation.

    Attributes:
        names: Name of each image.
        classes: Name of each class.
        region: Intersection, prediction and label pixels, integers (N, C, 3).
        boundary: The same counts in the boundary bands; None if the evaluation had no boundary metrics.
        absent: Rule of the mIoU for a class that is absent from the labels.
    """

    names: list[str]
    classes: list[str]
    region: Counts
    boundary: Counts | None
    absent: AbsentClasses


def read_runs(paths: Sequence[str | Path]) -> tuple[list[Run], list[str]]:
    """The runs in folders and their subfolders, and one sentence per folder that cannot be read.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If there is no run.
    """
    runs: list[Run] = []
    problems: list[str] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise FileNotFoundError(f"expected a folder of runs, got {path}, which is {_what(path)}")
        folders = list(_run_folders(path))
        if not folders:
            problems.append(f"{path}: no runs; a run is a folder of cpg fit, which contains {EXPERIMENT}")
        for folder in folders:
            if any(folder.samefile(run.folder) for run in runs):
                continue
            try:
                runs.append(read_run(folder))
            except (OSError, ValueError) as error:
                problems.append(f"{folder}: {error}")
    if not runs:
        raise ValueError("expected folders of runs, got none that can be read:\n" + "\n".join(problems))
    return runs, problems


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file is missing or damaged.
    """
    if not (folder / EXPERIMENT).exists():
        raise ValueError(f"not started: there is no {EXPERIMENT} yet")
    run = _identity(read_json(folder / EXPERIMENT))
    run.folder = folder
    if (folder / METRICS).exists():
        run.history = read_metrics(folder / METRICS)
    if (folder / SUMMARY).exists():
        scores = read_json(folder / SUMMARY).get("scores")
        if not isinstance(scores, dict):
            raise ValueError(f"{SUMMARY} is damaged: expected scores by their log key, got {type(scores).__name__}")
        run.scores = {_printable(name): float(value) for name, value in scores.items() if _is_number(value)}
    return run


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is damaged: expected an object, got {type(value).__name__}")
    return value


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """The validation scores in a ``metrics.csv`` by log key and epoch. An incomplete last line is left out."""
    history: dict[str, dict[int, float]] = {}
    try:
        text = _read_text(path)
        whole = text[: text.rfind("\n") + 1]
        header, *rows = list(csv.reader(io.StringIO(whole, newline=""))) or [["epoch", "step"]]
        if header[:2] != ["epoch", "step"]:
            raise ValueError(f"expected columns epoch, step, ..., got {', '.join(header[:2])}")
        for number, row in enumerate(rows, start=2):
            if len(row) != len(header):
                raise ValueError(f"expected {len(header)} cells in line {number}, got {len(row)}")
            for name, cell in zip(header, row, strict=True):
                if name.startswith("val/") and cell and math.isfinite(float(cell)):
                    history.setdefault(name, {})[int(row[0])] = float(cell)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
    return history


def read_counts(path: Path) -> EvaluationCounts:
    """Read the counts of an evaluation.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST_COUNTS:
            raise ValueError(f"expected at most {LARGEST_COUNTS} bytes, got {size}")
        with np.load(path, allow_pickle=False) as arrays:
            names, classes = ([_printable(str(each)) for each in arrays[key].ravel()] for key in ("names", "classes"))
            shape = (len(names), len(classes), 3)
            region = _counts(arrays["region"], shape)
            boundary = _counts(arrays["boundary"], shape) if "boundary" in arrays else None
            absent = str(arrays["absent"]) if "absent" in arrays else "skip"
    except KeyError as error:
        raise ValueError(f"{path.name} is damaged: no array {error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
    if absent not in ("skip", "skip_always", "zero"):
        raise ValueError(f"{path.name} is damaged: expected absent to be skip, skip_always or zero, got {absent!r}")
    return EvaluationCounts(names, classes, region, boundary, absent)  # type: ignore[arg-type]


def read_means(folder: Path) -> dict[str, float]:
    """The scores of an evaluation by log key."""
    rows = list(csv.reader(_read_text(folder / "val-means.csv").splitlines()))[1:]
    return {f"val/{row[0]}": float(row[1]) for row in rows if len(row) == 2 and math.isfinite(float(row[1]))}


def _run_folders(top: Path) -> Iterable[Path]:
    """The run folders in a folder, including itself, sorted; subfolders of a run are not searched."""
    for folder, below, files in os.walk(top):
        below.sort()
        if EXPERIMENT in files or CELL in files:
            below.clear()
            yield Path(folder)


def _identity(values: dict[str, Any]) -> Run:
    """The run described by the object in ``experiment.json``."""
    if values.get("version") != VERSION:
        raise ValueError(
            f"{EXPERIMENT}: expected version {VERSION}, got {values.get('version')!r}, from another version of cpg_lightning"
        )
    parts, versions = values.get("parts"), values.get("versions")
    if not isinstance(parts, dict) or not isinstance(versions, dict):
        raise ValueError(f"{EXPERIMENT} is damaged: expected parts and versions")
    seed = values.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"{EXPERIMENT} is damaged: expected the seed to be an integer, got {seed!r}")
    return Run(
        folder=Path(),
        key=_text(values, "key"),
        name=_text(values, "name"),
        seed=seed,
        parts={factor: Part(_text(parts, factor, "name"), _text(parts, factor, "digest")) for factor in FACTORS},
        versions={_printable(package): _printable(str(version)) for package, version in versions.items()},
    )


def _text(values: dict[str, Any], *keys: str) -> str:
    """The text at a path of keys in nested objects."""
    value: Any = values
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str) or not value:
        raise ValueError(f"{EXPERIMENT} is damaged: expected a text for {'.'.join(keys)}, got {value!r}")
    return _printable(value)


def _printable(text: str) -> str:
    """The text with unprintable characters replaced, so that it cannot control a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _counts(values: np.ndarray, shape: tuple[int, ...]) -> Counts:
    if values.shape != shape or values.dtype.kind not in "iu":
        raise ValueError(f"expected integers (images, classes, 3) = {shape}, got {values.dtype} {values.shape}")
    if values.size and (values.min() < 0 or (values[..., 0] > values[..., 1:].min(axis=-1)).any()):
        raise ValueError(
            "expected counts of 0 or more, and intersections of at most the predicted and the labelled pixels"
        )
    return values.astype(np.int32 if values.max(initial=0) < 2**31 else np.int64)  # half the memory for many runs


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"expected a file {path}, which is {_what(path)}")
    if path.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"expected at most {LARGEST_TEXT} bytes")
    return path.read_text(encoding="utf-8")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _what(path: Path) -> str:
    return "missing" if not path.exists() else "a folder" if path.is_dir() else "not a folder"
