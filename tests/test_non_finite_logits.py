"""Logits that are not finite give the loss and the gradient of torch's own functions: a diverging run must not look good."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cpg_lightning.losses import CrossEntropyCPGLoss, cpg_loss

NAN, INF = float("nan"), float("inf")
STRIPS = st.sampled_from([1, 40, None, 2**26])


@st.composite
def problems(draw):
    """Logits of some size with a few values that diverged, and labels in patches, some of them ignored."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    images, classes, stride = draw(st.integers(1, 3)), draw(st.integers(2, 4)), draw(st.sampled_from([1, 2, 4]))
    height, width = draw(st.sampled_from([(4, 4), (5, 3), (1, 6)]))
    logits = torch.randn(images, classes, height, width, dtype=torch.float64, generator=generator)
    for value in draw(st.lists(st.sampled_from([NAN, INF, -INF, 1e4, -1e4]), max_size=3)):
        logits.view(-1)[torch.randint(logits.numel(), (), generator=generator)] = value
    target = torch.randint(0, classes, (images, height, width), generator=generator)
    target = target.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    target[torch.rand(target.shape, generator=generator) < draw(st.sampled_from([0, 0.3]))] = 255
    return logits, target


def upsampled(logits, target, align_corners):
    if logits.shape[2:] == target.shape[1:]:
        return logits
    return F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=align_corners)


def value_and_gradient(loss, logits):
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@settings(deadline=None, max_examples=150)
@given(
    problem=problems(),
    strip=STRIPS,
    align_corners=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1]),
    weights=st.sampled_from([None, [0.0, 1.0, 2.0, 3.0]]),
)
def test_cross_entropy_equals_torchs(device, problem, strip, align_corners, smoothing, weights):
    logits, target = (each.to(device) for each in problem)
    if (target == 255).all():
        target.view(-1)[0] = 1
    logits.requires_grad_()
    weights = weights and weights[: logits.shape[1]]
    options = {"ignore_index": 255, "label_smoothing": smoothing}
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64, device=device)
    if weight is not None and not weight[target[target != 255]].any():
        weight = weights = None  # there is nothing to average over
    expected = F.cross_entropy(upsampled(logits, target, align_corners), target, weight, **options)
    criterion = CrossEntropyCPGLoss(0, class_weights=weights, label_smoothing=smoothing, strip_logits=strip)
    loss = criterion(logits, target, align_corners)
    torch.testing.assert_close(
        value_and_gradient(loss, logits), value_and_gradient(expected, logits), rtol=1e-9, atol=1e-12, equal_nan=True
    )


@settings(deadline=None, max_examples=150)
@given(problem=problems(), strip=STRIPS, align_corners=st.booleans(), kernel_size=st.sampled_from([3, 5]))
def test_value_and_gradient_with_cpg_equal_the_definition_or_are_nan_in_the_windows(
    device, problem, strip, align_corners, kernel_size
):
    logits, target = (each.to(device) for each in problem)
    if (target == 255).all():
        target.view(-1)[0] = 1
    logits.requires_grad_()
    large = upsampled(logits, target, align_corners)
    expected = F.cross_entropy(large, target, ignore_index=255) + 0.7 * cpg_loss(large, target, kernel_size)
    criterion = CrossEntropyCPGLoss(0.7, kernel_size, strip_logits=strip)
    found, found_gradient = value_and_gradient(criterion(logits, target, align_corners), logits)
    expected, expected_gradient = value_and_gradient(expected, logits)
    # A window's NaN counts in both directions here; by the definition, not where the kernel's weight is 0.
    assert found.isnan() or torch.isclose(found, expected, rtol=1e-9)
    assert found_gradient.isnan()[expected_gradient.isnan()].all()
    if large.isfinite().all():
        torch.testing.assert_close(found_gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 4])
def test_nan_logits_give_a_nan_loss_with_hard_example_mining(stride):
    logits = torch.zeros(1, 2, 8 // stride, 8 // stride)
    logits[0, 0, 0, 0] = NAN
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    assert CrossEntropyCPGLoss(ohem_threshold=0.7)(logits, target).isnan()


def test_one_logit_of_minus_infinity_leaves_a_finite_loss():
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 16, 16)
    logits[0, 2, 9, 9] = -INF
    target = torch.randint(0, 2, (1, 64, 64))
    logits.requires_grad_()
    loss = CrossEntropyCPGLoss()(logits, target)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()
