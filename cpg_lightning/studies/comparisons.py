"""Comparisons of pairs of groups: by shared seeds, and by images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cpg_lightning.studies.groups import Pair
from cpg_lightning.studies.reading import EvaluationCounts
from cpg_lightning.studies.scores import BOUNDARY_IOU, MIOU
from cpg_lightning.studies.statistics import (
    Array,
    Counts,
    ImageDifference,
    SeedDifference,
    bootstrap_over_images,
    class_iou,
    holm,
    paired_by_seed,
)


@dataclass
class SeedComparison:
    """Paired comparison over seeds: would new trainings differ?

    Attributes:
        pair: The groups.
        score: Log key of the score.
        seeds: Seeds for which both groups have a score.
        without_partner: Other seeds of the two groups, including those of unfinished runs.
        result: The difference.
        p_holm: The p value after Holm's correction over the comparisons of this score; NaN for a single seed.
        family: Number of comparisons in the correction.
    """

    pair: Pair
    score: str
    seeds: list[int]
    without_partner: list[int]
    result: SeedDifference
    p_holm: float = np.nan
    family: int = 0


@dataclass
class ImageComparison:
    """Paired comparison over images: do these trained networks differ on such images?

    Attributes:
        pair: The groups.
        score: Log key of the score.
        seeds: Seeds of the compared networks.
        classes: Names of the classes.
        result: The difference of the score and of each class.
        by_seed: Difference of each class and its interval over seeds, float64 (C, 3); NaN if undefined.
    """

    pair: Pair
    score: str
    seeds: list[int]
    classes: list[str]
    result: ImageDifference
    by_seed: Array


def compare_by_seed(pairs: Sequence[Pair], scores: Sequence[str]) -> tuple[list[SeedComparison], list[str]]:
    """The comparisons by seed for each score, and one sentence per pair without a shared seed."""
    comparisons = []
    for score in scores:
        of_score = []
        for pair in pairs:
            a, b = pair.a.scores(score), pair.b.scores(score)
            seeds = sorted(a.keys() & b.keys())
            if seeds:
                alone = {*pair.a.runs, *pair.b.runs, *pair.a.unfinished, *pair.b.unfinished} - set(seeds)
                result = paired_by_seed([a[seed] for seed in seeds], [b[seed] for seed in seeds])
                of_score.append(SeedComparison(pair, score, seeds, sorted(alone), result))
        corrected = holm([each.result.p for each in of_score])
        for comparison, p in zip(of_score, corrected, strict=True):
            comparison.p_holm = p
            comparison.family = int(np.count_nonzero(~np.isnan(corrected)))
        comparisons.extend(of_score)
    unpaired = [pair for pair in pairs if not _shared(pair)]
    reason = "are not compared: they have no finished runs with the same seed to pair"
    return comparisons, [f"{pair.a.short} and {pair.b.short} {reason}" for pair in unpaired]


def compare_by_image(pairs: Sequence[Pair], draws: int = 10_000) -> tuple[list[ImageComparison], list[str]]:
    """The comparisons by image of mIoU and boundary IoU, and one sentence per pair without a comparison."""
    comparisons, notes = [], []
    for pair in pairs:
        shared = _shared(pair)
        seeds = [seed for seed in shared if pair.a.runs[seed].counts and pair.b.runs[seed].counts]
        if shared and not seeds:
            notes.append(f"{pair.name}: not compared by image, because no runs with the same seed have counts")
        if not seeds:
            continue
        try:
            for score in (MIOU, BOUNDARY_IOU):
                comparison = _by_image(pair, score, seeds, draws)
                if comparison is not None:
                    comparisons.append(comparison)
        except ValueError as error:
            notes.append(f"{pair.name}: not compared by image: {error}")
    return comparisons, notes


def _by_image(pair: Pair, score: str, seeds: list[int], draws: int) -> ImageComparison | None:
    """The comparison of one score; None if a run lacks the counts."""
    runs = [counts for group in (pair.a, pair.b) for seed in seeds if (counts := group.runs[seed].counts)]
    arrays = [values for counts in runs if (values := _in_order(counts, score, runs[0])) is not None]
    if len(arrays) < len(runs):
        return None
    of_a, of_b = np.stack(arrays[: len(seeds)]), np.stack(arrays[len(seeds) :])
    absent = runs[0].absent if score == MIOU else "skip"
    result = bootstrap_over_images(of_a, of_b, absent, draws)
    by_seed = _classes_by_seed([class_iou(each, absent) for each in of_a], [class_iou(each, absent) for each in of_b])
    return ImageComparison(pair, score, seeds, runs[0].classes, result, by_seed)


def _classes_by_seed(a: list[Array], b: list[Array]) -> Array:
    """The difference of each class and its t interval over seeds, float64 (C, 3)."""
    rows = []
    for of_a, of_b in zip(np.transpose(a), np.transpose(b), strict=True):  # of one class, (S) each
        known = ~np.isnan(of_a) & ~np.isnan(of_b)
        result = paired_by_seed(of_a[known], of_b[known]) if known.any() else None
        rows.append((result.difference, result.low, result.high) if result else (np.nan,) * 3)
    return np.array(rows)


def _in_order(counts: EvaluationCounts, score: str, like: EvaluationCounts) -> Counts | None:
    """The counts of a score, int64 (N, C, 3), with the images in the order of ``like``; None if there are no counts.

    Raises:
        ValueError: If the images, the classes or the rule for absent classes differ, or two images have the same name.
    """
    if counts.classes != like.classes:
        raise ValueError("their classes differ")
    if counts.absent != like.absent:
        raise ValueError("their mIoU treats absent classes in different ways")
    place = {name: index for index, name in enumerate(counts.names)}
    if len(place) < len(counts.names):
        raise ValueError("several of their images have the same name")
    if place.keys() != set(like.names):
        raise ValueError(f"they were evaluated on different images ({len(like.names)} and {len(place)})")
    values = counts.region if score == MIOU else counts.boundary
    return None if values is None else values[[place[name] for name in like.names]]


def _shared(pair: Pair) -> list[int]:
    return sorted(pair.a.runs.keys() & pair.b.runs.keys())
