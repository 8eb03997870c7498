"""The scores of a run to compare: those of its last or of its best epoch."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cpg_lightning.studies.reading import COUNTS, EvaluationCounts, Run, read_counts, read_means
from cpg_lightning.studies.statistics import class_iou, fine_grained

MIOU, BOUNDARY_IOU = "val/mIoU", "val/boundary_IoU"
FIRST = (MIOU, BOUNDARY_IOU, "val/mIoU^I", "val/mIoU^C", "val/mIoU^I_worst")  # first columns of tables
REPORTED = re.compile(r"val/(mIoU|boundary_|trimap_).*")
TRIMAP = re.compile(r"val/trimap_mIoU/(\d+)px")
FRACTION = re.compile(r"val/(IoU/|mIoU|boundary_|trimap_|pixel_accuracy|class_accuracy|fwIoU).*")  # shown in percent
EQUAL = 1e-5  # tolerance for scores from the same counts, because logged scores are float32
SAME_WEIGHTS = 1e-3  # tolerance for scores of the same weights on another device or in another precision


@dataclass
class EvaluatedRun:
    """A run with the scores and counts of one epoch.

    Attributes:
        run: The run.
        epoch: The epoch; None for the last epoch of a run without ``metrics.csv``.
        scores: Scores by log key; with counts, they include the fine-grained scores.
        counts: Pixel counts of each image; None if there are none.
        notes: Missing data, one sentence each.
    """

    run: Run
    epoch: int | None
    scores: dict[str, float]
    counts: EvaluationCounts | None = None
    notes: list[str] = field(default_factory=list)


def evaluated(run: Run, best: bool = False) -> EvaluatedRun:
    """A finished run with the scores of its last epoch, or of its best epoch by ``val/mIoU``.

    If the best epoch is not the last, its logged scores come from ``metrics.csv``. Its counts, and boundary scores that
    were not computed in this epoch, come from the output of ``cpg validate`` for the best checkpoint.
    """
    miou = run.history.get(MIOU, {})
    last = max(miou, default=None)
    epoch = (
        max(miou, key=lambda each: miou[each]) if best and miou else last
    )  # the first maximum, as Lightning keeps it
    if best and not miou:
        note = f"{run.folder}: the best epoch is unknown, because metrics.csv has no {MIOU}; the run is not used"
        return EvaluatedRun(run, None, {}, notes=[note])
    if epoch == last:
        result = EvaluatedRun(run, epoch, dict(run.scores or {}))
        folder: Path | None = run.folder / "tables"
    else:
        scores = {name: values[epoch] for name, values in run.history.items() if epoch in values}
        result = EvaluatedRun(run, epoch, scores)
        folder = _evaluation_of_best(result)
    if folder is not None:
        _add_counts(result, folder)
    return result


def reported_scores(runs: Iterable[EvaluatedRun], primary: str) -> list[str]:
    """The scores to compare, in the order of the tables: the primary score and those of the package's metrics."""
    names = {name for each in runs for name in each.scores if REPORTED.fullmatch(name)} | {primary}
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys((primary, *FIRST)))}
    return sorted(names, key=lambda name: (ranks.get(name, len(ranks)), *_natural(name)))


def shown(score: str, value: float, sign: bool = False) -> str:
    """A score, or with ``sign`` a difference of scores, as text. Only fractions are in percent; a loss, e.g., is not."""
    if math.isnan(value):
        return "-"
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.2f}" if FRACTION.fullmatch(score) else f"{value:{plus}.4g}"


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that orders numbers in names by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _evaluation_of_best(result: EvaluatedRun) -> Path | None:
    """Find the output of ``cpg validate`` for the best checkpoint with the training's inference, and add its scores.

    Returns:
        The folder of the tables; None if there is none.
    """
    run = result.run
    digest = run.parts["inference"].digest
    prefix = "val-best-"
    for folder in sorted((run.folder / "evaluations").glob(f"{prefix}*")):
        named = folder.name.removeprefix(prefix)
        if not named or not digest.startswith(named):
            continue
        try:
            means = read_means(folder / "tables")
        except (OSError, ValueError) as error:
            result.notes.append(f"{folder}: {error}")
            return None
        if abs(means.get(MIOU, math.inf) - result.scores[MIOU]) > SAME_WEIGHTS:
            result.notes.append(
                f"{folder} is not used: its mIoU is {means.get(MIOU, math.nan):.4f}, but the mIoU of the best epoch "
                f"{result.epoch} was {result.scores[MIOU]:.4f}"
            )
            return None
        result.scores = {**means, **result.scores}
        return folder / "tables"
    result.notes.append(
        f"{run.folder}: no counts of the best epoch {result.epoch}, and no boundary scores unless the training computed them "
        f"in this epoch; cpg validate --run {run.folder} writes both"
    )
    return None


def _add_counts(result: EvaluatedRun, folder: Path) -> None:
    """Add the counts and the fine-grained scores computed from them, if the counts agree with the logged mIoU."""
    path = folder / COUNTS
    if not path.exists():
        result.notes.append(f"{result.run.folder}: no {path.relative_to(result.run.folder)}, so no scores by image")
        return
    try:
        counts = read_counts(path)
    except (OSError, ValueError) as error:
        result.notes.append(f"{result.run.folder}: {error}; the run has no scores by image")
        return
    counted, logged = _mean(class_iou(counts.region, counts.absent)), result.scores.get(MIOU, math.nan)
    tolerance = EQUAL if folder.parent == result.run.folder else SAME_WEIGHTS
    if not abs(counted - logged) <= tolerance:
        result.notes.append(
            f"{path} is not used: its counts give an mIoU of {counted:.5f}, but {logged:.5f} was logged for epoch "
            f"{result.epoch}"
        )
        return
    result.counts = counts
    for name, value in fine_grained(counts.region).items():
        if not math.isnan(value):
            result.scores[f"val/{name}"] = value


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan
