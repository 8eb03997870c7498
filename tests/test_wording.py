"""What a report concludes, in words."""

import numpy as np
import pytest

from cpg_lightning.studies.comparisons import ImageComparison, SeedComparison
from cpg_lightning.studies.groups import Group, Pair
from cpg_lightning.studies.statistics import ImageDifference, SeedDifference
from cpg_lightning.studies.wording import agreement, image_conclusion, seed_conclusion

PAIR = Pair(Group("0", "x-ce", {}), Group("1", "x-ce+cpg1", {}), "ce+cpg1 against ce")


def by_seed(low, high, p=0.01, seeds=3, alone=(), score="val/mIoU", positive=None, family=1):
    difference = 0.012 if np.isnan(low) else (low + high) / 2
    positive = seeds if positive is None else positive
    result = SeedDifference(seeds, difference, low, high, 1.0, p, positive)
    return SeedComparison(PAIR, score, list(range(seeds)), list(alone), result, p, family)


def by_image(low, high, images=500):
    return ImageComparison(
        PAIR,
        "val/mIoU",
        [0, 1, 2],
        ["a"],
        ImageDifference(images, (low + high) / 2, low, high, np.zeros((1, 3))),
        np.zeros((1, 3)),
    )


SEED_CONCLUSIONS = {
    "3 seeds: +1.20 (95 % interval 0.40 to 2.00), higher in 3 of 3; p 0.01: new trainings are expected to score higher too": by_seed(
        0.004, 0.020
    ),
    "3 seeds: -1.20 (95 % interval -2.00 to -0.40), higher in 0 of 3; p 0.01 after correction for 4 comparisons: new trainings "
    "are expected to score lower too": by_seed(-0.020, -0.004, positive=0, family=4),
    "3 seeds: +0.40 (95 % interval -1.20 to 2.00), higher in 2 of 3; the interval includes 0: no conclusion from these "
    "seeds": by_seed(-0.012, 0.020, p=0.3, positive=2),
    "2 of 3 seeds (seed 2 without a finished partner): +0.40 (95 % interval -1.20 to 2.00), higher in 2 of 2; the interval "
    "includes 0: no conclusion from these seeds": by_seed(-0.012, 0.020, p=0.3, seeds=2, alone=[2]),
    "2 of 4 seeds (seeds 2, 3 without a finished partner): +0.40 (95 % interval -1.20 to 2.00), higher in 2 of 2; the interval "
    "includes 0: no conclusion from these seeds": by_seed(-0.012, 0.020, p=0.3, seeds=2, alone=[2, 3]),
    "3 seeds: +1.20 (95 % interval 0.40 to 2.00), higher in 3 of 3; the interval excludes 0, but p 0.0552 after correction for 6 "
    "comparisons: no conclusion from these seeds": by_seed(0.004, 0.020, p=0.0552, family=6),
    "1 seed: +1.20; one pair of runs allows no conclusion about new trainings": by_seed(
        np.nan, np.nan, p=np.nan, seeds=1
    ),
    "1 of 3 seeds (seeds 1, 2 without a finished partner): +1.20; one pair of runs allows no conclusion about new "
    "trainings": by_seed(np.nan, np.nan, p=np.nan, seeds=1, alone=[1, 2]),
    "3 seeds: +0.00 (95 % interval 0.00 to 0.00), higher in 0 of 3; the scores are equal: no conclusion from these "
    "seeds": by_seed(0.0, 0.0, p=np.nan, positive=0),
    "3 seeds: -0.25 (95 % interval -0.3 to -0.2), higher in 0 of 3; p below 0.001: new trainings are expected to score lower "
    "too": by_seed(-0.3, -0.2, p=0.0001, positive=0, score="val/loss"),
}


@pytest.mark.parametrize("expected", SEED_CONCLUSIONS)
def test_conclusions_from_seeds(expected):
    assert seed_conclusion(SEED_CONCLUSIONS[expected]) == f"ce+cpg1 against ce: {expected}"


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (
            by_image(0.004, 0.02),
            "500 images, 3 seeds: +1.20 (95 % interval 0.40 to 2.00); these networks score higher on such images",
        ),
        (
            by_image(-0.02, 0.004),
            "500 images, 3 seeds: -0.80 (95 % interval -2.00 to 0.40); the interval includes 0: no conclusion from these images",
        ),
        (
            by_image(-0.02, -0.004, images=49),
            (
                "49 images, 3 seeds: -1.20 (95 % interval -2.00 to -0.40); these networks score lower on such images. "
                "Warning: with fewer than 50 images such intervals are too narrow"
            ),
        ),
    ],
)
def test_conclusions_from_images(comparison, expected):
    assert image_conclusion(comparison) == f"ce+cpg1 against ce: {expected}"


@pytest.mark.parametrize(
    ("seeds", "images", "expected"),
    [
        (by_seed(-0.01, 0.02, p=0.4), by_image(0.01, 0.02), "the runs do not show that new trainings would"),
        (by_seed(0.01, 0.02, p=0.2), by_image(0.01, 0.02), "the runs do not show that new trainings would"),
        (by_seed(0.01, 0.02), by_image(-0.01, 0.02), "a few images may cause the difference"),
        (by_seed(0.01, 0.02), by_image(0.01, 0.02), "The difference holds for new trainings, and for other images"),
        (by_seed(-0.01, 0.02, p=0.4), by_image(-0.01, 0.02), "Neither shows a difference"),
    ],
)
def test_joint_conclusions(seeds, images, expected):
    assert expected in agreement(seeds, images)
