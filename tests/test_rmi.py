"""The region mutual information loss."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_problem import check_reference, problems, references, upsampled, value_and_gradient

from cpg_lightning.losses import RMILoss

POOLINGS = {"max3": ("max", 3, 3), "avg4": ("average", 4, 4)}


def pooled(maps, kernel_size, stride, reduction):
    """A map (H, W), window by window."""
    padding, (height, width) = kernel_size // 2, maps.shape
    rows = []
    for top in range(-padding, height + padding - kernel_size + 1, stride):
        row = []
        for left in range(-padding, width + padding - kernel_size + 1, stride):
            window = maps[max(top, 0) : top + kernel_size, max(left, 0) : left + kernel_size]
            row.append(window.max() if reduction == "max" else window.sum() / kernel_size**2)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def definition(logits, target, pooling):
    """Binary cross-entropy and RMI by their definitions: image by image, class by class, with an inverse."""
    reduction, kernel_size, stride = pooling
    images, classes = logits.shape[:2]
    valid = target != 255
    bce = rmi = 0 * logits.sum()
    for image in range(images):
        for index in range(classes):
            z, true = logits[image, index], ((target[image] == index) & valid[image]).to(logits.dtype)
            terms = -true * torch.nn.functional.logsigmoid(z) - (1 - true) * torch.nn.functional.logsigmoid(-z)
            bce = bce + terms[valid[image]].sum() / (valid.sum() + 1)
            a, p = (pooled(maps, kernel_size, stride, reduction) for maps in (true, z.sigmoid() * valid[image] + 1e-6))
            height, width = a.shape[0] - 2, a.shape[1] - 2
            a, p = (
                torch.stack([m[y : y + height, x : x + width].flatten() for y in range(3) for x in range(3)])
                for m in (a, p)
            )
            a, p = (m - m.mean(dim=1, keepdim=True) for m in (a, p))
            identity = 5e-4 * torch.eye(9, dtype=torch.float64)
            rest = a @ a.T - a @ p.T @ torch.linalg.inv(p @ p.T + identity) @ p @ a.T
            rmi = rmi + torch.logdet(rest + identity) / 18 / images
    return bce, rmi


@settings(deadline=None, max_examples=25)
@given(problem=problems(smallest=8), pooling=st.sampled_from(list(POOLINGS.values())), align_corners=st.booleans())
def test_value_and_gradient_equal_the_definition(problem, pooling, align_corners):
    logits, target = problem
    logits.requires_grad_()
    bce, rmi = definition(upsampled(logits, target, align_corners), target, pooling)
    expected, expected_gradient = value_and_gradient((bce + rmi) / 2, logits)
    criterion = RMILoss(*pooling)
    value, gradient = value_and_gradient(criterion(logits, target, align_corners), logits)
    # The authors add 1e-8 to the diagonal of the Cholesky factor, which is 0.02 or more.
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(criterion.terms, {"bce": bce.detach(), "rmi": rmi.detach()}, rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", "abcd")
@pytest.mark.parametrize("pooling", POOLINGS)
def test_values_equal_those_of_the_authors_code(real_data, pooling, case):
    expected = references(real_data, "loss_baselines")
    of = {name: expected[f"{case}_{name}"] for name in ("logits", "labels", f"combined_{pooling}_value", "bce_value")}
    gradient = expected[f"{case}_combined_max3_grad"].astype(np.float64)
    if pooling == "avg4":
        gradient += (expected[f"{case}_rmi_avg4_grad"] - expected[f"{case}_rmi_max3_grad"].astype(np.float64)) / 2
    criterion = RMILoss(*POOLINGS[pooling])
    check_reference(criterion, of["logits"], of["labels"], of[f"combined_{pooling}_value"], gradient)
    criterion(torch.tensor(of["logits"], dtype=torch.float64), torch.tensor(of["labels"]))
    terms = {"bce": float(of["bce_value"]), "rmi": float(expected[f"{case}_rmi_{pooling}_value"])}
    assert {name: term.item() for name, term in criterion.terms.items()} == pytest.approx(terms, rel=1e-9)


def test_classes_may_be_computed_one_at_a_time(monkeypatch):
    torch.manual_seed(0)
    logits, target = (
        torch.randn(2, 5, 20, 24, dtype=torch.float64, requires_grad=True),
        torch.randint(0, 5, (2, 20, 24)),
    )
    expected = value_and_gradient(RMILoss()(logits, target), logits)
    monkeypatch.setattr("cpg_lightning.losses.rmi.CHUNK", 2 * 20 * 24)
    torch.testing.assert_close(value_and_gradient(RMILoss()(logits, target), logits), expected)


def test_absent_classes_add_a_constant():
    criterion = RMILoss()
    criterion(torch.randn(2, 5, 30, 30), torch.full((2, 30, 30), 255))
    assert criterion.terms["bce"].item() == 0
    assert criterion.terms["rmi"].item() == pytest.approx(5 * math.log(5e-4) / 2, rel=1e-5)


def test_the_covariance_of_certain_predictions_is_not_singular():
    target = torch.zeros(1, 60, 60, dtype=torch.long)
    target[:, 30:] = 1
    logits = (2e4 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1) - 1e4).requires_grad_()
    value, gradient = value_and_gradient(RMILoss()(logits, target), logits)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="pooling to be max or average, got 'min'"):
        RMILoss(pooling="min")
    with pytest.raises(ValueError, match="stride to be 1 or more pixels, got 0"):
        RMILoss(stride=0)
    with pytest.raises(
        ValueError, match="at least 3x3 pixels after pooling, got 2x3 from 6x9; train with larger crops"
    ):
        RMILoss()(torch.randn(1, 3, 6, 9), torch.zeros(1, 6, 9, dtype=torch.long))
