"""The boundary loss of Kervadec et al."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_problem import check_reference, problems, references, upsampled, value_and_gradient

from cpg_lightning.losses import KervadecBoundaryLoss


def distance(region, pixel):
    """The signed distance of a pixel to a region, by all pairs of pixels."""
    height, width = region.shape
    others = [(y, x) for y in range(height) for x in range(width) if region[y, x] != region[pixel]]
    if not others:
        return 0.0
    nearest = min(((y - pixel[0]) ** 2 + (x - pixel[1]) ** 2) ** 0.5 for y, x in others)
    return 1 - nearest if region[pixel] else nearest


def definition(logits, target, classes):
    probabilities = logits.softmax(dim=1)
    valid = (target != 255).nonzero().tolist()
    total = 0 * logits.sum()
    for image, y, x in valid:
        for index in classes:
            total = total + probabilities[image, index, y, x] * distance(target[image] == index, (y, x))
    return total / (max(1, len(valid)) * len(classes))


@settings(deadline=None, max_examples=25)
@given(problem=problems(largest=7), some=st.booleans(), align_corners=st.booleans())
def test_value_and_gradient_equal_the_definition(problem, some, align_corners):
    logits, target = problem
    logits.requires_grad_()
    classes = [1, 0] if some else range(logits.shape[1])
    expected = definition(upsampled(logits, target, align_corners), target, classes)
    loss = KervadecBoundaryLoss(classes if some else None)(logits, target, align_corners)
    torch.testing.assert_close(
        value_and_gradient(3 * loss, logits), value_and_gradient(3 * expected, logits), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("case", "abcdefgi")
@pytest.mark.parametrize("of", ["all", "nobg"])
def test_values_equal_those_of_the_reference(real_data, of, case):
    expected = references(real_data, "loss_boundary")
    logits, labels = expected[f"{case}_logits"], expected[f"{case}_labels"]
    key = f"{case}_bl_masked_exact_{of}"
    loss = KervadecBoundaryLoss(None if of == "all" else range(1, logits.shape[1]))
    if case == "f":  # SciPy's distances of a class that fills the image, to a point outside of it
        assert loss(torch.tensor(logits), torch.tensor(labels)).item() == 0
    elif f"{key}_grad" in expected:
        check_reference(loss, logits, labels, expected[f"{key}_value"], expected[f"{key}_grad"])
    else:
        sample, places = expected[f"{key}_grad_sample"], expected[f"{case}_bl_sample_index"]
        check_reference(loss, logits, labels, expected[f"{key}_value"], sample, places=places)


def test_bad_arguments_are_refused():
    for classes in ([], [-1, 0], [1, 1]):
        with pytest.raises(ValueError, match="numbers of 0 or more, each once, got"):
            KervadecBoundaryLoss(classes)
    with pytest.raises(ValueError, match=r"classes of 0\.\.2, got \[1, 3\]"):
        KervadecBoundaryLoss([1, 3])(torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
