"""Conclusions from comparisons, as text."""

from cpg_lightning.studies.comparisons import ImageComparison, SeedComparison
from cpg_lightning.studies.scores import shown
from cpg_lightning.studies.statistics import FEW_IMAGES

LEVEL = 0.05

BY_SEED = "Would new trainings differ?"
BY_SEED_METHOD = (
    "The primary question. Runs are paired by seed; the interval and the test are Student's t for pairs. p is corrected "
    "by Holm's method for the number of comparisons of one score."
)
OTHER_SCORES = (
    "Choose the primary score before the runs. Among many scores, some differ by chance, and Holm's correction covers only the "
    "comparisons of a single score."
)
BY_IMAGE = "Do these trained networks differ on such images?"
BY_IMAGE_METHOD = (
    "The secondary question. The trained networks are fixed, and the images are resampled. The interval is a bootstrap over "
    "images of the dataset's score, averaged over seeds. It is not corrected for the number of comparisons. It does not apply "
    "to new trainings."
)


def seeds_differ(comparison: SeedComparison) -> bool:
    """Whether the seeds show that new trainings would differ."""
    return not _includes_zero(comparison.result.low, comparison.result.high) and comparison.p_holm < LEVEL


def images_differ(comparison: ImageComparison) -> bool:
    """Whether the images show that these trained networks differ."""
    return not _includes_zero(comparison.result.low, comparison.result.high)


def seed_conclusion(comparison: SeedComparison) -> str:
    """The conclusion about new trainings."""
    result, score = comparison.result, comparison.score
    start = f"{comparison.pair.name}: {_pairs(comparison)}: "
    start += shown(score, result.difference, sign=True)
    if result.seeds == 1:
        return f"{start}; one pair of runs allows no conclusion about new trainings"
    start += f" ({_interval(score, result.low, result.high)}), higher in {result.positive} of {result.seeds}"
    if not result.low and not result.high:
        return f"{start}; the scores are equal: no conclusion from these seeds"
    if _includes_zero(result.low, result.high):
        return f"{start}; the interval includes 0: no conclusion from these seeds"
    p = f"p {_p(comparison.p_holm)}"
    if comparison.family > 1:
        p += f" after correction for {comparison.family} comparisons"
    if comparison.p_holm >= LEVEL:
        return f"{start}; the interval excludes 0, but {p}: no conclusion from these seeds"
    return f"{start}; {p}: new trainings are expected to score {_direction(result.difference)} too"


def image_conclusion(comparison: ImageComparison) -> str:
    """The conclusion about these trained networks."""
    result, score = comparison.result, comparison.score
    networks = f"{len(comparison.seeds)} seed{'s'[: len(comparison.seeds) > 1]}"
    text = f"{comparison.pair.name}: {result.images} images, {networks}: "
    text += f"{shown(score, result.difference, sign=True)} ({_interval(score, result.low, result.high)}); "
    if images_differ(comparison):
        text += f"these networks score {_direction(result.difference)} on such images"
    else:
        text += "the interval includes 0: no conclusion from these images"
    if result.images < FEW_IMAGES:
        text += f". Warning: with fewer than {FEW_IMAGES} images such intervals are too narrow"
    return text


def agreement(by_seed: SeedComparison, by_image: ImageComparison) -> str:
    """The joint conclusion from both comparisons, without the pair's name, so that several pairs can share it."""
    trainings, images = seeds_differ(by_seed), images_differ(by_image)
    if images and not trainings:
        return (
            "The answers disagree. These trained networks differ on such images, but the runs do not show that new trainings "
            "would differ: the difference may come from the seeds. More seeds can decide"
        )
    if trainings and not images:
        return (
            "The answers disagree. New trainings would differ on these images, but the runs do not show that they would differ "
            "on other images of this kind: a few images may cause the difference. More images can decide"
        )
    if trainings:
        return "The answers agree. The difference holds for new trainings, and for other images of this kind"
    return "The answers agree. Neither shows a difference, but a difference may still exist"


def seeds_of(comparison: SeedComparison) -> str:
    """The number of paired seeds, and of all seeds if it is larger: "3", or "2 of 3"."""
    total = len(comparison.seeds) + len(comparison.without_partner)
    paired = comparison.result.seeds
    return str(paired) if paired == total else f"{paired} of {total}"


def _pairs(comparison: SeedComparison) -> str:
    alone = comparison.without_partner
    text = f"{seeds_of(comparison)} seed{'s'[: len(comparison.seeds) + len(alone) > 1]}"
    if alone:
        text += f" (seed{'s'[: len(alone) > 1]} {', '.join(map(str, alone))} without a finished partner)"
    return text


def _interval(score: str, low: float, high: float) -> str:
    return f"95 % interval {shown(score, low)} to {shown(score, high)}"


def _p(value: float) -> str:
    return f"{value:.3g}" if value >= 0.001 else "below 0.001"


def _includes_zero(low: float, high: float) -> bool:
    """Whether the interval includes 0; true if there is no interval."""
    return not (low > 0 or high < 0)


def _direction(difference: float) -> str:
    return "higher" if difference > 0 else "lower"
