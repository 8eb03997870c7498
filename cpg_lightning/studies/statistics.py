"""Scores from pixel counts, and paired comparisons of trainings by seed and of trained networks by image."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.integer[Any]]
AbsentClasses = Literal["skip", "skip_always", "zero"]

CONFIDENCE = 0.95
FEW_IMAGES = 50  # with fewer images, bootstrap intervals of a mean are too narrow
DRAWS_AT_A_TIME = 500  # bounds the memory of the bootstrap


def class_iou(counts: Counts, absent: AbsentClasses = "skip") -> Array:
    """The intersection over union of each class, from counts summed over images.

    Args:
        counts: Intersection, prediction and label pixels of each image and class, integers (N, C, 3).
        absent: Rule for a class that is absent from the labels, see :class:`~cpg_lightning.metrics.ClassIoU`.

    Returns:
        float64 (C), NaN for a class that is left out. ``np.nanmean`` of it is the mIoU.

    Example:
        >>> class_iou(np.array([[[2, 4, 2], [0, 0, 0]], [[2, 2, 2], [0, 0, 0]]]))
        array([0.66666667,        nan])
    """
    both, predicted, labelled = counts.sum(axis=0, dtype=np.float64).T
    return _iou(both, predicted + labelled - both, labelled, absent)


def image_iou(counts: Counts) -> Array:
    """The intersection over union of each class in each image.

    Args:
        counts: Intersection, prediction and label pixels, integers (N, C, 3).

    Returns:
        float64 (N, C), NaN if the class is absent from the image's label.
    """
    both, predicted, labelled = np.moveaxis(counts.astype(np.float64), -1, 0)
    return _iou(both, predicted + labelled - both, labelled, "skip_always")


def fine_grained(counts: Counts, worst: int = 5) -> dict[str, float]:
    """Scores that weight images equally instead of pixels, so that large objects do not dominate small ones.

    Args:
        counts: Intersection, prediction and label pixels, integers (N, C, 3).
        worst: Percentage of the images in the score of the worst images; at least one image.

    Returns:
        ``"mIoU^I"``: mean of :func:`image_iou` over the classes of an image, then over images with a labelled pixel.
        ``"mIoU^C"``: mean over the images with the class, then over classes. ``"mIoU^I_worst"``: mean of the worst
        images in mIoU^I. All are NaN without labelled pixels.

    Source: Wang et al., "Revisiting Evaluation Metrics for Semantic Segmentation: Optimization and Evaluation of
    Fine-grained Intersection over Union", NeurIPS 2023 Datasets and Benchmarks.

    Example:
        >>> fine_grained(np.array([[[1, 1, 2], [2, 3, 2]], [[4, 4, 4], [0, 0, 0]]]))["mIoU^I"]  # (7 / 12 + 1) / 2
        0.7916666666666666
    """
    iou = image_iou(counts)
    images = np.sort(_means(iou, axis=1))
    images = images[~np.isnan(images)]
    return {
        "mIoU^I": _mean(images),
        "mIoU^C": _mean(_means(iou, axis=0)),
        "mIoU^I_worst": _mean(images[: max(1, len(images) * worst // 100)]),
    }


@dataclass(frozen=True)
class SeedDifference:
    """The difference of two groups of trainings, paired by seed.

    Attributes:
        seeds: Number of pairs.
        difference: Mean of b minus a.
        low: Lower end of the 95 % t interval of the difference; NaN for one pair.
        high: Upper end of the interval.
        t: Statistic of the paired t test; NaN for one pair, and if all pairs are equal.
        p: Two-sided p value of the test.
        positive: Number of pairs in which b is above a.
    """

    seeds: int
    difference: float
    low: float
    high: float
    t: float
    p: float
    positive: int


def paired_by_seed(a: Sequence[float] | Array, b: Sequence[float] | Array) -> SeedDifference:
    """Paired t test and t interval of the scores of two groups of trainings.

    They answer the question: would new trainings differ?

    Args:
        a: Scores of one group, one per seed.
        b: Scores of the other group, for the same seeds in the same order.

    Raises:
        ValueError: If the numbers of seeds differ or are 0.

    Example:
        >>> result = paired_by_seed([0.70, 0.71, 0.69], [0.72, 0.72, 0.71])
        >>> f"{result.difference:+.4f}, 95 % interval {result.low:.4f} to {result.high:.4f}"
        '+0.0167, 95 % interval 0.0023 to 0.0310'
    """
    from scipy.stats import ttest_rel  # only here: its import takes half a second

    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(
            f"expected two sequences with a score for each of the same seeds, got shapes {first.shape}, {second.shape}"
        )
    differences = second - first
    low = high = t = p = np.nan
    if len(differences) > 1 and differences.any():
        with warnings.catch_warnings(action="ignore"):  # t is infinite if all differences are equal
            test = ttest_rel(second, first)
            low, high = test.confidence_interval(CONFIDENCE)
        t, p = test.statistic, test.pvalue
    elif len(differences) > 1:
        low = high = 0.0
    return SeedDifference(
        seeds=len(differences),
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        t=float(t),
        p=float(p),
        positive=int((differences > 0).sum()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of the p values of several comparisons; NaN stays NaN and is not counted.

    The k-th smallest of m values is multiplied by m - k + 1. The result is at least the previous one and at most 1.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    corrected = np.full_like(values, np.nan)
    order = [index for index in np.argsort(values, kind="stable") if not np.isnan(values[index])]
    scaled = [values[index] * (len(order) - rank) for rank, index in enumerate(order)]
    corrected[order] = np.minimum(1, np.maximum.accumulate(scaled)) if order else []
    return corrected.tolist()


@dataclass(frozen=True)
class ImageDifference:
    """The difference of two groups of trained networks, with intervals from a bootstrap over images.

    Attributes:
        images: Number of images.
        difference: The mean IoU of b minus that of a, each averaged over the networks of the group.
        low: Lower end of the 95 % percentile interval of the difference.
        high: Upper end of the interval.
        classes: Difference of each class, and lower and upper end of its interval, float64 (C, 3); NaN for a class that
            is left out.
    """

    images: int
    difference: float
    low: float
    high: float
    classes: Array


def bootstrap_over_images(
    a: Counts, b: Counts, absent: AbsentClasses = "skip", draws: int = 10_000, seed: int = 0
) -> ImageDifference:
    """Bootstrap of the difference in mean IoU over the images of the dataset.

    It answers the question: do these trained networks differ on such images? It does not apply to new trainings. A draw
    takes as many images as the dataset has, with replacement, the same for all networks. The mean IoU is computed from
    the sum of their counts, as for the dataset.

    Args:
        a: Intersection, prediction and label pixels of each network of one group, integers (S, N, C, 3).
        b: The same counts of the other group, for the same images and classes.
        absent: Rule for a class that is absent from the labels, see :class:`~cpg_lightning.metrics.ClassIoU`.
        draws: Number of draws.
        seed: Seed of the draws.

    Raises:
        ValueError: If the groups were not evaluated on the same labels.

    Example:
        >>> label = np.full((1, 60, 2, 1), 10)
        >>> a, b = (np.concatenate([np.full_like(label, right), label, label], axis=-1) for right in (6, 9))
        >>> result = bootstrap_over_images(a, b, draws=100)
        >>> [round(each, 4) for each in (result.difference, result.low, result.high)]
        [0.3896, 0.3896, 0.3896]
    """
    if a.ndim != 4 or not a.size or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"expected counts (networks, images, classes, 3) of the same images, got {a.shape}, {b.shape}")
    labels = a[0, ..., 2]
    if (a[..., 2] != labels).any() or (b[..., 2] != labels).any():
        raise ValueError("expected all networks to be evaluated on the same labels, got other numbers of label pixels")
    scores = [_resampled_iou(each, absent) for each in (a, b)]
    observed = _difference(scores, np.ones((1, len(labels))))[0]  # (1 + C)
    generator = np.random.default_rng(seed)
    differences = np.empty((draws, len(observed)))
    for start in range(0, draws, DRAWS_AT_A_TIME):
        part = differences[start : start + DRAWS_AT_A_TIME]
        part[:] = _difference(scores, _multiplicities(len(labels), len(part), generator))
    low, high = _intervals(differences)
    mean, *classes = np.stack([observed, low, high], axis=1)
    return ImageDifference(len(labels), float(mean[0]), float(mean[1]), float(mean[2]), np.array(classes))


def _multiplicities(images: int, draws: int, generator: np.random.Generator) -> Array:
    """The number of times each image occurs in each draw, (draws, images)."""
    drawn = generator.integers(images, size=(draws, images)) + images * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def _resampled_iou(counts: Counts, absent: AbsentClasses) -> Callable[[Array], Array]:
    """A function from multiplicities (D, N) to the mean IoU and the class IoUs, averaged over networks, (D, 1 + C)."""
    networks, images, classes, _ = counts.shape
    both, predicted, labelled = np.moveaxis(counts.astype(np.float64), (3, 1), (0, 1))  # (N, S, C) each
    both, union = (each.reshape(images, -1) for each in (both, predicted + labelled - both))
    labelled = labelled[:, 0]  # the same for all networks

    def resampled(weights: Array) -> Array:
        shape = (len(weights), networks, classes)
        iou = _iou(
            (weights @ both).reshape(shape), (weights @ union).reshape(shape), (weights @ labelled)[:, None], absent
        )
        return np.concatenate([_means(iou, axis=2)[..., None], iou], axis=2).mean(axis=1)

    return resampled


def _difference(scores: Sequence[Callable[[Array], Array]], weights: Array) -> Array:
    a, b = (each(weights) for each in scores)
    return b - a


def _intervals(differences: Array) -> Array:
    """The percentile interval of each column (D, K), float64 (2, K); NaN values are left out."""
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    intervals = np.full((2, differences.shape[1]), np.nan)
    for column, values in enumerate(differences.T):
        known = values[~np.isnan(values)]
        if len(known):
            intervals[:, column] = np.quantile(known, tails)
    return intervals


def _iou(both: Array, union: Array, labelled: Array, absent: AbsentClasses) -> Array:
    """Intersection divided by union; see :class:`~cpg_lightning.metrics.ClassIoU` for absent classes."""
    if absent == "zero":
        return both / np.maximum(union, 1)
    counted = labelled > 0 if absent == "skip_always" else union > 0
    return np.divide(both, union, out=np.full(both.shape, np.nan), where=np.broadcast_to(counted, both.shape))


def _means(values: Array, axis: int) -> Array:
    """``np.nanmean`` without its warning for slices of NaN."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=axis)
    return np.divide(total, known.sum(axis=axis), out=np.full(total.shape, np.nan), where=known.any(axis=axis))


def _mean(values: Array) -> float:
    return float(_means(values, axis=0))
