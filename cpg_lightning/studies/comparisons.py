"""Comparisons of pairs of groups: by the seeds that they share, and by the images of those runs."""

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
    """Would new trainings differ?

    Attributes:
        pair: The groups.
        score: Log key of the score.
        seeds: The seeds that both have.
        without_partner: The seeds that one of them has, or has not finished.
        result: The difference.
        p_holm: Its p value after Holm's correction over the comparisons of this score; NaN for one pair.
        family: The number of comparisons that it was corrected for.
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
    """Do these trained networks differ on such images?

    Attributes:
        pair: The groups.
        score: Log key of the score.
        seeds: The seeds whose networks are compared.
        classes: Names of the classes.
        result: The difference, with those of the classes.
        by_seed: Difference of each class with its interval over seeds, float64 (C, 3); NaN where there is none.
    """

    pair: Pair
    score: str
    seeds: list[int]
    classes: list[str]
    result: ImageDifference
    by_seed: Array


def compare_by_seed(pairs: Sequence[Pair], scores: Sequence[str]) -> tuple[list[SeedComparison], list[str]]:
    """The comparisons of each score, and which pairs share no seed, a sentence each."""
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
    said = "have no finished runs of the same seed: that is no paired comparison, and they are not compared"
    return comparisons, [f"{pair.a.short} and {pair.b.short} {said}" for pair in unpaired]


def compare_by_image(pairs: Sequence[Pair], draws: int = 10_000) -> tuple[list[ImageComparison], list[str]]:
    """The comparisons of mIoU and boundary IoU where all runs of a pair have counts, and why there are no others."""
    comparisons, notes = [], []
    for pair in pairs:
        shared = _shared(pair)
        seeds = [seed for seed in shared if pair.a.runs[seed].counts and pair.b.runs[seed].counts]
        if shared and not seeds:
            notes.append(f"{pair.name}: not compared by image, as no runs of the same seed have counts")
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
    """The comparison of one score; None where a run has no such counts."""
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
    """The difference of each class with its t interval over seeds, float64 (C, 3)."""
    rows = []
    for of_a, of_b in zip(np.transpose(a), np.transpose(b), strict=True):  # of one class, (S) each
        known = ~np.isnan(of_a) & ~np.isnan(of_b)
        result = paired_by_seed(of_a[known], of_b[known]) if known.any() else None
        rows.append((result.difference, result.low, result.high) if result else (np.nan,) * 3)
    return np.array(rows)


def _in_order(counts: EvaluationCounts, score: str, like: EvaluationCounts) -> Counts | None:
    """The counts of a score, int64 (N, C, 3), the images in another run's order; None where there are none.

    Raises:
        ValueError: If they are of other images or classes, or of two images of one name.
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
