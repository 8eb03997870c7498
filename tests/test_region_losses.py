"""The Dice and the Jaccard loss."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_problem import check_reference, problems, references, upsampled, value_and_gradient
from segmentation_models_pytorch import losses as smp

from cpg_lightning.losses import DiceLoss, JaccardLoss

LOSSES = {"dice": DiceLoss, "jaccard": JaccardLoss}


def definition(name, logits, target, over, smooth):
    """The loss by its definition: over images and classes, one after another."""
    one_hot = torch.stack([target == index for index in range(logits.shape[1])], dim=1).to(logits.dtype)
    probabilities = logits.softmax(dim=1) * (target != 255).unsqueeze(1)
    groups = [slice(None)] if over == "batch" else [slice(image, image + 1) for image in range(len(target))]
    losses = {}
    for group, images in enumerate(groups):
        for index in range(logits.shape[1]):
            p, y = probabilities[images, index], one_hot[images, index]
            overlap = (p * y).sum()
            whole = (p.sum() + y.sum()) / 2 if name == "dice" else p.sum() + y.sum() - overlap
            if y.any():
                losses[group, index] = 1 - (overlap + smooth) / (whole + smooth)
    by = 1 if over == "class" else 0
    means = [
        torch.stack([loss for key, loss in losses.items() if key[by] == place]).mean()
        for place in sorted({key[by] for key in losses})
    ]
    return torch.stack(means).mean() if means else 0 * logits.sum()


@settings(deadline=None, max_examples=100)
@given(
    problem=problems(),
    name=st.sampled_from(sorted(LOSSES)),
    over=st.sampled_from(["batch", "image", "class"]),
    smooth=st.sampled_from([1e-3, 1.0]),
    align_corners=st.booleans(),
)
def test_value_and_gradient_equal_the_definition(problem, name, over, smooth, align_corners):
    logits, target = problem
    logits.requires_grad_()
    expected = definition(name, upsampled(logits, target, align_corners), target, over, smooth)
    loss = LOSSES[name](over, smooth)(logits, target, align_corners)
    torch.testing.assert_close(
        value_and_gradient(3 * loss, logits), value_and_gradient(3 * expected, logits), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("case", "abcd")
@pytest.mark.parametrize("way", ["batch_smooth1", "batch_smooth1e-3", "image_smooth1", "class_smooth1"])
@pytest.mark.parametrize("name", LOSSES)
def test_values_equal_those_of_the_authors_code(real_data, name, way, case):
    key = f"{case}_{name}_{way}"
    expected, inputs = references(real_data, "loss_region"), references(real_data, "loss_baselines")
    if f"{key}_value" not in expected:
        pytest.skip("the authors' code has no such value")
    over, smooth = way.split("_smooth")
    loss = LOSSES[name](over, float(smooth))
    arrays = inputs[f"{case}_logits"], inputs[f"{case}_labels"]
    check_reference(loss, *arrays, expected[f"{key}_value"], expected[f"{key}_grad"])


def test_values_equal_those_of_segmentation_models_pytorch_except_for_the_mean():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 6, 9, 8), torch.randint(0, 4, (3, 9, 8))
    share = 4 / 6  # four of the six classes are in the labels; its sum is divided by six
    # Its releases differ in what a larger `smooth` means, and in whether Jaccard ignores pixels.
    jaccard = smp.JaccardLoss("multiclass")(logits, target)
    torch.testing.assert_close(share * JaccardLoss(smooth=1e-6)(logits, target), jaccard)
    target[0, 2:5] = 255
    dice = smp.DiceLoss("multiclass", ignore_index=255)(logits, target)
    torch.testing.assert_close(share * DiceLoss(smooth=1e-6)(logits, target), dice)


def test_the_loss_of_a_perfect_prediction_is_0_and_of_the_opposite_almost_1():
    target = torch.zeros(1, 20, 20, dtype=torch.long)
    target[:, 10:] = 1
    right = 100.0 * torch.nn.functional.one_hot(target, 2).movedim(-1, 1)
    for loss in (DiceLoss(), JaccardLoss()):
        assert loss(right, target).item() == 0
        assert loss(-right, target).item() > 0.99


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="over to be batch, image or class, got 'pixel'"):
        DiceLoss(over="pixel")
    with pytest.raises(ValueError, match="smooth to be a positive, finite number of pixels, got 0"):
        JaccardLoss(smooth=0)
