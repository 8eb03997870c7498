"""What all criteria have in common: the contract, and finite values whatever the labels are."""

from itertools import product

import pytest
import torch
from losses_problem import losses, patches, upsampled, value_and_gradient

from cpg_lightning.losses import CrossEntropyCPGLoss

LOSSES = losses()
ALL = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
SIZE = (13, 17)


def drawn_target(device="cpu"):
    target = patches(torch.Generator().manual_seed(0), 2, 4, *SIZE, patch=4, void=0.1)
    return target.to(device)


def with_one_pixel():
    target = torch.full((2, *SIZE), 255)
    target[0, 3, 4] = 1
    return target


TARGETS = {
    "all ignored": torch.full((2, *SIZE), 255),
    "one of two images ignored": drawn_target().index_fill(0, torch.tensor([1]), 255),
    "one labelled pixel": with_one_pixel(),
    "one class, so no boundary": torch.ones(2, *SIZE, dtype=torch.long),
    "a class in each image, so no boundary": torch.tensor([0, 2]).view(2, 1, 1).expand(2, *SIZE).contiguous(),
    "drawn": drawn_target(),
    "no images": drawn_target()[:0],
}


def same(device):
    """No difference; that of rounding on a GPU, which adds in any order."""
    return {} if device.type == "cuda" else {"rtol": 0, "atol": 0}


DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@ALL
def test_value_and_gradient_are_finite(on_device, loss, target):
    torch.manual_seed(0)
    target = target.to(on_device)
    for dtype, scale, size in product(DTYPES, (1, 1e4), (SIZE, (4, 5))):
        logits = (scale * torch.randn(len(target), 5, *size).sign()).to(dtype).requires_grad_()
        value, gradient = value_and_gradient(loss(logits, target), logits)
        assert value.shape == ()
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert value.isfinite()
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()
        assert all(term.isfinite() and not term.requires_grad for term in loss.terms.values())
        if (target == 255).all():
            assert not gradient.any()


@ALL
def test_nan_logits_give_a_nan_loss(on_device, loss):
    logits = torch.full((2, 5, *SIZE), float("nan"), requires_grad=True)
    assert loss(logits, drawn_target(on_device)).isnan()


# The windows of CPG and the boundaries of the active boundary loss have ignored pixels in them.
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("cpg", "ce + cpg", "sum", "active boundary")])
def test_ignored_pixels_have_no_influence(on_device, name):
    loss = LOSSES[name]
    torch.manual_seed(0)
    logits, target = torch.randn(2, 5, *SIZE, dtype=torch.float64, requires_grad=True), drawn_target(on_device)
    others = torch.where((target == 255).unsqueeze(1), torch.randn_like(logits), logits).detach().requires_grad_()
    first, second = (value_and_gradient(loss(each, target), each) for each in (logits, others))
    assert first[1].any()
    assert not first[1].movedim(1, -1)[target == 255].any()
    torch.testing.assert_close(first, second)


@ALL
def test_the_target_may_have_any_integer_type_and_any_ignored_value(on_device, loss):
    logits, target = torch.randn(2, 5, *SIZE), drawn_target(on_device)
    expected = loss(logits, target)
    torch.testing.assert_close(loss(logits, target.to(torch.uint8)), expected)
    torch.testing.assert_close(loss(logits.movedim(1, -1).contiguous().movedim(-1, 1), target), expected)


@ALL
@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_are_upsampled_to_the_target(on_device, loss, align_corners):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 5, 4, 5, dtype=torch.float64, requires_grad=True), drawn_target(on_device)
    found = value_and_gradient(loss(logits, target, align_corners), logits)
    expected = value_and_gradient(loss(upsampled(logits, target, align_corners), target), logits)
    torch.testing.assert_close(found, expected)


@ALL
def test_the_gradient_equals_finite_differences(on_device, loss):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    target = patches(torch.Generator().manual_seed(1), 2, 3, 8, 9, patch=3, void=0.1).to(on_device)
    rounding = 1e-9 if on_device.type == "cuda" else 0.0  # a GPU adds in any order
    assert torch.autograd.gradcheck(lambda each: loss(each, target), logits, fast_mode=True, nondet_tol=rounding)


@ALL
def test_autocast_changes_nothing(on_device, loss):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 5, 4, 5), drawn_target(on_device)
    with torch.autocast(on_device.type, dtype=torch.bfloat16):
        under = loss(logits, target)
    torch.testing.assert_close(under, loss(logits, target), **same(on_device))


@ALL
def test_small_gradients_survive_half_precision_where_the_loss_is_scaled(on_device, loss):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 5, *SIZE).half().requires_grad_(), drawn_target(on_device)
    full = logits.detach().float().requires_grad_()
    _, expected = value_and_gradient(loss(full, target), full)
    _, scaled = value_and_gradient(2**12 * loss(logits, target), logits)
    torch.testing.assert_close(
        scaled.float() / 2**12, expected, rtol=0.02 if on_device.type == "cuda" else 0.01, atol=1e-10
    )


@ALL
def test_the_value_can_be_computed_without_a_gradient(on_device, loss):
    logits, target = torch.randn(2, 5, 4, 5), drawn_target(on_device)
    expected = loss(logits.clone().requires_grad_(), target).detach()
    with torch.no_grad():
        torch.testing.assert_close(loss(logits, target), expected, **same(on_device))
    assert not loss(logits, target).requires_grad


@ALL
def test_a_criterion_has_no_parameters_and_no_state(on_device, loss):
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert loss.ignore_index == 255


@ALL
def test_the_auxiliary_output_gets_only_cross_entropy(on_device, loss):
    logits, target = torch.randn(2, 5, 4, 5), drawn_target(on_device)
    expected = CrossEntropyCPGLoss(cpg_weight=0)(logits, target)
    torch.testing.assert_close(loss.auxiliary(logits, target), expected, **same(on_device))


@ALL
def test_bad_input_gives_one_clear_error(loss):
    target = drawn_target()  # on the CPU, where the values are checked
    with pytest.raises(ValueError, match=r"0\.\.4 or ignore_index=255, got \[7\]"):
        loss(torch.randn(2, 5, *SIZE), torch.full_like(target, 7))
    with pytest.raises(ValueError, match="2 or more classes, got 1; name the background"):
        loss(torch.randn(2, 1, *SIZE), target)
    with pytest.raises(ValueError, match="integer target"):
        loss(torch.randn(2, 5, *SIZE), target.float())
