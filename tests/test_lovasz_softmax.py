"""The Lovász-softmax loss."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_problem import check_reference, problems, references, upsampled, value_and_gradient
from segmentation_models_pytorch import losses as smp

from cpg_lightning.losses import LovaszSoftmaxLoss


def jaccard(missed, false, total):
    """One minus the IoU of a class of so many pixels, of which some are missed and some others false."""
    return 1 - (total - missed) / (total + false)


def of_pixels(probabilities, labels):
    """The loss of pixels (N, C) with classes (N), by its definition; None without any."""
    losses = []
    for index in sorted(set(labels.tolist())):
        true = labels == index
        errors = torch.where(true, 1 - probabilities[:, index], probabilities[:, index])
        total, missed, false, before, loss = int(true.sum()), 0, 0, 0.0, 0.0
        for place in errors.argsort(descending=True).tolist():
            missed, false = missed + int(true[place]), false + int(not true[place])
            step = jaccard(missed, false, total)
            loss = loss + errors[place] * (step - before)
            before = step
        losses.append(loss)
    return torch.stack(losses).mean() if losses else None


def definition(logits, target, per_image):
    images = [
        (image.softmax(dim=0)[:, label != 255].T, label[label != 255])
        for image, label in zip(logits, target, strict=True)
    ]
    if not per_image:
        images = [tuple(torch.cat(parts) for parts in zip(*images, strict=True))]
    values = [value for value in (of_pixels(*image) for image in images) if value is not None]
    return torch.stack(values).mean() if values else 0 * logits.sum()


@settings(deadline=None, max_examples=60)
@given(problem=problems(), per_image=st.booleans(), align_corners=st.booleans())
def test_value_and_gradient_equal_the_definition(problem, per_image, align_corners):
    logits, target = problem
    logits.requires_grad_()
    expected = definition(upsampled(logits, target, align_corners), target, per_image)
    loss = LovaszSoftmaxLoss(per_image)(logits, target, align_corners)
    expected, expected_gradient = value_and_gradient(3 * expected, logits)
    value, gradient = value_and_gradient(3 * loss, logits)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    if not has_ties(upsampled(logits, target, align_corners), target):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def has_ties(logits, target):
    """Whether two errors are equal, or all but: there the loss has no gradient."""
    probabilities = logits.detach().softmax(dim=1).movedim(1, -1)[target != 255]
    one_hot = torch.nn.functional.one_hot(target[target != 255], logits.shape[1])
    errors = (one_hot - probabilities).abs().sort(dim=0).values
    return bool((errors.diff(dim=0) < 1e-12).any())


@pytest.mark.parametrize("case", "abcd")
@pytest.mark.parametrize("way", ["batch", "image"])
def test_values_equal_those_of_the_authors_code(real_data, way, case):
    expected = references(real_data, "loss_baselines")
    if f"{case}_lovasz_{way}_value" not in expected:
        pytest.skip("the authors' code fails on an image without a labelled pixel")
    arrays = [expected[f"{case}_{name}"] for name in ("logits", "labels", f"lovasz_{way}_value", f"lovasz_{way}_grad")]
    check_reference(LovaszSoftmaxLoss(per_image=way == "image"), *arrays)


@pytest.mark.parametrize("per_image", [False, True])
def test_values_equal_those_of_segmentation_models_pytorch(per_image):
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 9, 8)
    target = torch.randint(0, 4, (3, 9, 8))
    target[0, 2:5] = 255
    expected = smp.LovaszLoss("multiclass", per_image, ignore_index=255)(logits, target)
    torch.testing.assert_close(LovaszSoftmaxLoss(per_image)(logits, target), expected)


def test_the_loss_of_certain_predictions_is_one_minus_the_iou():
    target = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 0, 1, 1, 1, 1, 1]]])
    logits = 100.0 * torch.nn.functional.one_hot(predicted, 2).movedim(-1, 1)
    torch.testing.assert_close(LovaszSoftmaxLoss()(logits, target), torch.tensor(1 - (3 / 4 + 4 / 5) / 2))
