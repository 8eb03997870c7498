"""The IoU over a dataset: counted right, whatever the order, the shapes and the absent classes."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from cpg_lightning.metrics import ClassIoU, accuracies


def iou_of(*pairs, num_classes=4):
    metric = ClassIoU(num_classes)
    for preds, target in pairs:
        metric.update(torch.tensor(preds), torch.tensor(target))
    return metric.compute()


def test_iou_is_computed_over_the_whole_dataset():
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 4, shape), rng.choice([0, 1, 2, 3, 255], shape)) for shape in ((1, 5, 6), (1, 9, 2))]
    preds, target = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in range(2))
    preds, target = preds[target != 255], target[target != 255]
    expected = [((preds == c) & (target == c)).sum() / ((preds == c) | (target == c)).sum() for c in range(4)]
    np.testing.assert_allclose(iou_of(*pairs), expected, rtol=1e-6)
    np.testing.assert_allclose(iou_of(*reversed(pairs)), expected, rtol=1e-6)


def test_a_class_absent_from_predictions_and_targets_is_left_out():
    perfect = [[[0, 1]]]
    iou = iou_of((perfect, perfect))
    assert iou.isnan().tolist() == [False, False, True, True]
    assert iou.nanmean() == 1


def test_a_class_that_is_only_predicted_counts_as_zero():
    assert iou_of(([[[0, 2]]], [[[0, 0]]])).nan_to_num(-1).tolist() == [0.5, -1, 0, -1]


def test_ignored_pixels_are_not_counted():
    assert iou_of(([[[0, 1]]], [[[0, 255]]])).nan_to_num(-1).tolist() == [1, -1, -1, -1]


def test_the_mean_is_torchmetrics_macro_average():
    torch.manual_seed(0)
    preds, target = torch.randint(0, 5, (2, 8, 8)), torch.randint(0, 5, (2, 8, 8))
    target[0, :4] = 255
    reference = MulticlassJaccardIndex(7, ignore_index=255)
    reference.update(preds, target)
    torch.testing.assert_close(
        iou_of((preds.tolist(), target.tolist()), num_classes=7).nanmean().float(), reference.compute()
    )


def test_an_ignored_class_is_left_out():
    metric = ClassIoU(3, ignore_index=0)
    metric.update(torch.tensor([[[0, 1, 2]]]), torch.tensor([[[1, 1, 2]]]))
    assert metric.compute().nan_to_num(-1).tolist() == [-1, 0.5, 1]


def test_small_integer_types_do_not_overflow():
    classes = torch.arange(20, dtype=torch.uint8).view(1, 4, 5)
    metric = ClassIoU(20)
    metric.update(classes, classes)
    assert torch.equal(metric.compute(), torch.ones(20).double())


@pytest.mark.parametrize(
    ("absent", "expected"),
    [("skip", [0.5, 0, 1, -1, -1]), ("skip_always", [0.5, -1, 1, -1, -1]), ("zero", [0.5, 0, 1, 0, -1])],
)
def test_absent_classes_follow_the_rule_of_the_benchmark(absent, expected):
    """Class 1 is predicted alone, class 3 is nowhere, class 4 is ignored."""
    metric = ClassIoU(5, ignore_index=4, absent=absent)
    metric.update(torch.tensor([[[0, 1, 2, 2]]]), torch.tensor([[[0, 0, 2, 4]]]))
    assert metric.compute().nan_to_num(-1).tolist() == expected


def test_division_is_in_float64():
    metric = ClassIoU(2)
    metric.confmat += torch.tensor([[3 * 10**9, 1], [0, 1]])
    assert metric.compute()[0].item() == 3 * 10**9 / (3 * 10**9 + 1) != 1


def test_accuracies_follow_from_the_confusion_matrix():
    confmat = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    expected = {"pixel_accuracy": 0.7, "class_accuracy": (3 / 4 + 4 / 6) / 2, "fwIoU": 0.4 * 3 / 6 + 0.6 * 4 / 7}
    assert {name: value.item() for name, value in accuracies(confmat).items()} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("preds", "target", "name"), [(3, 0, "predictions"), (0, 3, "targets"), (-1, 0, "predictions")]
)
def test_an_unknown_class_is_refused(preds, target, name):
    with pytest.raises(ValueError, match=rf"expected {name} to be classes 0\.\.2, got"):
        ClassIoU(3).update(torch.tensor([[[preds]]]), torch.tensor([[[target]]]))


@pytest.mark.parametrize("deterministic", [False, True])
def test_counting_is_the_same_under_deterministic_algorithms(deterministic):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        classes = torch.arange(150).repeat_interleave(300).view(1, 150, 300)
        metric = ClassIoU(150)
        metric.update(classes, classes)
        assert torch.equal(metric.compute(), torch.ones(150).double())
    finally:
        torch.use_deterministic_algorithms(before)
