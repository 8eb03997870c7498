"""The numbers of reports equal SciPy's, the reference implementation's, or those of a literal loop."""

import json
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch
from scipy import stats

from cpg_lightning.metrics import BoundaryIoU, ClassIoU
from cpg_lightning.metrics.iou import confusion
from cpg_lightning.studies.statistics import (
    bootstrap_over_images,
    class_iou,
    fine_grained,
    holm,
    image_iou,
    paired_by_seed,
)

GOLDEN = Path(__file__).parent / "golden"
STUDY = json.loads((GOLDEN / "paired_study.json").read_text())


def drawn_counts(generator, networks=1, images=12, classes=4, absent=0.3):
    """Counts of networks that are evaluated on the same labels, int64 (S, N, C, 3)."""
    labelled = generator.integers(1, 100, (images, classes)) * (generator.random((images, classes)) > absent)
    both = np.stack([generator.integers(0, labelled + 1) for _ in range(networks)])
    predicted = both + generator.integers(0, 20, both.shape)
    return np.stack([both, predicted, np.broadcast_to(labelled, both.shape)], axis=-1)


def scores_of(group, score):
    return [run[score] for run in STUDY["runs"] if run["group"] == group]


@pytest.mark.parametrize("expected", STUDY["comparisons"], ids=lambda each: f"{each['a']}{each['b']}-{each['score']}")
def test_comparisons_by_seed_are_those_of_the_public_study(expected):
    result = paired_by_seed(scores_of(expected["a"], expected["score"]), scores_of(expected["b"], expected["score"]))
    for name in ("seeds", "difference", "low", "high", "t", "p"):
        assert getattr(result, name) == pytest.approx(expected[name], abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("score", ["mIoU", "boundary_f1_mean", "trimap_mIoU_mean"])
def test_corrected_p_values_are_those_of_the_public_study(score):
    comparisons = [each for each in STUDY["comparisons"] if each["score"] == score]
    corrected = holm([each["p"] for each in comparisons])
    assert corrected == pytest.approx([each["p_holm"] for each in comparisons], abs=1e-9)


def test_by_seed_only_one_comparison_of_the_public_study_is_significant_and_it_is_not_with_plain_cross_entropy():
    comparisons = [each for each in STUDY["comparisons"] if each["score"] == "mIoU"]
    held = [
        each["a"] + each["b"]
        for each, p in zip(comparisons, holm([each["p"] for each in comparisons]), strict=True)
        if p < 0.05
    ]
    assert held == ["CD"]


def test_the_paired_test_is_scipys():
    a, b = np.random.default_rng(0).normal(size=(2, 7))
    result = paired_by_seed(a, b)
    test = stats.ttest_1samp(b - a, 0)
    assert (result.t, result.p) == pytest.approx((test.statistic, test.pvalue), rel=1e-12)
    low, high = stats.t.interval(0.95, 6, loc=(b - a).mean(), scale=stats.sem(b - a))
    assert (result.low, result.high) == pytest.approx((low, high), rel=1e-12)
    assert result.positive == sum(y > x for x, y in zip(a, b, strict=True))


def test_one_pair_has_a_difference_and_nothing_else():
    result = paired_by_seed([0.5], [0.75])
    assert (result.seeds, result.difference) == (1, 0.25)
    assert np.isnan([result.low, result.high, result.t, result.p]).all()


def test_equal_scores_have_an_interval_at_zero_and_no_p_value():
    result = paired_by_seed([0.5, 0.6], [0.5, 0.6])
    assert (result.difference, result.low, result.high) == (0, 0, 0)
    assert np.isnan(result.p)


def test_a_difference_that_is_the_same_for_each_seed_has_a_p_value_of_zero():
    result = paired_by_seed([0.5, 0.25], [0.75, 0.5])
    assert (result.low, result.high, result.p) == (0.25, 0.25, 0)


@pytest.mark.parametrize("b", [[0.5], [], [[0.5, 0.6]]])
def test_unpaired_scores_are_refused(b):
    with pytest.raises(ValueError, match="expected two sequences with a score for each of the same seeds"):
        paired_by_seed([0.5, 0.6] if b else [], b)


def test_holm_equals_a_literal_step_down():
    values = np.random.default_rng(1).random(9) * 0.1
    corrected, largest = {}, 0.0
    for rank, index in enumerate(np.argsort(values)):
        largest = max(largest, min(1, values[index] * (9 - rank)))
        corrected[index] = largest
    assert holm(values) == pytest.approx([corrected[index] for index in range(9)], rel=1e-12)


def test_comparisons_without_a_p_value_are_not_counted_by_holm():
    assert holm([0.02, np.nan, 0.03]) == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    assert np.isnan(holm([np.nan])).all()
    assert holm([]) == []


@pytest.mark.parametrize("absent", ["skip", "skip_always", "zero"])
def test_the_iou_of_counts_is_the_metrics(absent):
    torch.manual_seed(0)
    target, preds = torch.randint(0, 4, (2, 3, 8, 8))
    target[target == 3] = 255  # class 3 is predicted only, class 4 never
    metric = ClassIoU(num_classes=5, absent=absent)
    metric.update(preds, target)
    matrices = torch.stack(
        [confusion(*pair, num_classes=5, ignore_index=255) for pair in zip(preds, target, strict=True)]
    )
    counts = torch.stack([matrices.diagonal(dim1=1, dim2=2), matrices.sum(dim=1), matrices.sum(dim=2)], dim=-1).numpy()
    np.testing.assert_allclose(class_iou(counts, absent), metric.compute().numpy(), rtol=1e-12)


def test_the_boundary_iou_of_counts_is_the_metrics():
    torch.manual_seed(0)
    target, preds = torch.randint(0, 3, (2, 3, 8, 8))
    metric = BoundaryIoU(num_classes=4, average="none")
    counts = []
    for pair in zip(preds[:, None], target[:, None], strict=True):
        metric.update(*pair)
        both, first, second = metric.last_counts.numpy()
        either = first + second - both
        counts.append(np.stack([both, either, both], axis=-1))  # either = prediction + label - both
    np.testing.assert_allclose(class_iou(np.stack(counts)), metric.compute().numpy(), rtol=1e-12)


def test_fine_grained_scores_equal_the_reference_implementation():
    scores = fine_grained(np.load(GOLDEN / "fine_grained.npz")["counts"])
    assert scores["mIoU^I"] == pytest.approx(0.7180448150634766, abs=1e-7)
    assert scores["mIoU^C"] == pytest.approx(0.7094676208496093, abs=1e-7)
    assert scores["mIoU^I_worst"] == pytest.approx(0.5303261184692383, abs=1e-7)
    assert np.nanmean(class_iou(np.load(GOLDEN / "fine_grained.npz")["counts"])) == pytest.approx(
        0.6136102676391602, abs=1e-7
    )


def test_fine_grained_scores_equal_a_literal_loop():
    counts = drawn_counts(np.random.default_rng(2), images=45)[0]
    counts[7] = 0  # an image that is entirely ignored
    of_images, of_classes = [], {}
    for image in counts:
        known = {c: both / (pred + label - both) for c, (both, pred, label) in enumerate(image) if label}
        if known:
            of_images.append(sum(known.values()) / len(known))
        for c, value in known.items():
            of_classes.setdefault(c, []).append(value)
    assert fine_grained(counts) == pytest.approx(
        {
            "mIoU^I": np.mean(of_images),
            "mIoU^C": np.mean([np.mean(values) for values in of_classes.values()]),
            "mIoU^I_worst": np.mean(sorted(of_images)[:2]),  # 5 % of 44, rounded down
        },
        rel=1e-12,
    )


def test_fine_grained_scores_without_labels_are_nan():
    assert np.isnan(list(fine_grained(np.zeros((2, 3, 3), np.int64)).values())).all()


def test_a_class_absent_from_an_image_is_not_scored_in_it():
    assert np.isnan(image_iou(np.array([[[0, 5, 0], [1, 2, 1]]]))).tolist() == [[True, False]]


@pytest.mark.parametrize("absent", ["skip", "skip_always", "zero"])
def test_the_bootstrap_equals_a_literal_loop_over_the_same_draws(absent):
    generator = np.random.default_rng(3)
    counts = drawn_counts(generator, networks=5, absent=0.8)
    counts[..., 2, 2] = counts[..., 2, 0] = 0  # a class that is only predicted
    a, b = counts[:2], counts[2:]
    result = bootstrap_over_images(a, b, absent, draws=60, seed=4)
    images = a.shape[1]
    drawn = np.random.default_rng(4).integers(images, size=(60, images))

    def difference(chosen):
        means, classes = [], []
        for group in (a, b):
            iou = np.array([class_iou(network[chosen], absent) for network in group])
            means.append(np.mean([np.nanmean(each) for each in iou]))
            classes.append(iou.mean(axis=0))
        return np.array([means[1] - means[0], *(classes[1] - classes[0])])

    observed = difference(np.arange(images))
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # the class without a value
        low, high = np.nanquantile([difference(chosen) for chosen in drawn], [0.025, 0.975], axis=0)
    assert result.images == images
    np.testing.assert_allclose([result.difference, result.low, result.high], [observed[0], low[0], high[0]], rtol=1e-9)
    np.testing.assert_allclose(result.classes, np.stack([observed, low, high], axis=1)[1:], rtol=1e-9, atol=1e-12)


def test_the_bootstrap_depends_only_on_its_seed():
    a, b = drawn_counts(np.random.default_rng(5), networks=2, images=60)[:, None]
    first, again = (bootstrap_over_images(a, b, draws=200) for _ in range(2))
    assert (first.low, first.high) == (again.low, again.high)
    assert first.low != bootstrap_over_images(a, b, draws=200, seed=1).low


def test_the_bootstrap_covers_a_known_difference_in_about_95_of_100_data_sets():
    """IoU 0.6 against 0.7 of one class, images of one size, so that the truth is known."""
    generator = np.random.default_rng(6)
    covered = 0
    for _ in range(200):
        both = np.stack([generator.binomial(100, p, (1, 80, 1)) for p in (0.6, 0.7)])
        a, b = np.stack([both, both, np.full_like(both, 100)], axis=-1)  # no false positives: IoU = both / 100
        result = bootstrap_over_images(a, b, draws=300)
        covered += result.low <= 0.1 <= result.high
    assert 0.9 < covered / 200 < 0.99


def test_networks_of_other_labels_are_not_compared_by_image():
    a, b = drawn_counts(np.random.default_rng(7), networks=2)[:, None]
    other = b.copy()
    other[0, 0, 0, 2] += 1
    with pytest.raises(ValueError, match="expected all networks to be evaluated on the same labels"):
        bootstrap_over_images(a, other)
    with pytest.raises(ValueError, match=r"expected counts \(networks, images, classes, 3\) of the same images"):
        bootstrap_over_images(a, b[:, 1:])


def test_10_000_draws_of_500_images_and_171_classes_take_less_than_10_seconds():
    a, b = drawn_counts(np.random.default_rng(8), networks=6, images=500, classes=171).reshape(2, 3, 500, 171, 3)
    start = perf_counter()
    result = bootstrap_over_images(a, b, draws=10_000)
    assert perf_counter() - start < 10
    assert result.classes.shape == (171, 3)
