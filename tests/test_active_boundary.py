"""The active boundary loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_problem import check_reference, patches, references, upsampled, value_and_gradient

from cpg_lightning.losses import ActiveBoundaryLoss
from cpg_lightning.losses.active_boundary import distances_to_boundary

# (row, column), in the order in which the authors' code looks at them.
ORDER = [(1, 0), (-1, 0), (0, -1), (0, 1), (-1, 1), (1, 1), (-1, -1), (1, -1)]


def divergence(p, q):
    return (p.softmax(0) * (p.log_softmax(0) - q.log_softmax(0))).sum()


def slow_distances(label):
    """Distances of an image (H, W) to its boundary, by all pairs of pixels."""
    height, width = label.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    boundary = [
        (y, x)
        for y, x in pixels
        if label[y, x] == 255
        or (y + 1 < height and label[y, x] != label[y + 1, x])
        or (x + 1 < width and label[y, x] != label[y, x + 1])
    ]
    if not boundary:
        return dict.fromkeys(pixels, 0)
    return {(y, x): max(0, min(math.isqrt((y - v) ** 2 + (x - u) ** 2) for v, u in boundary) - 1) for y, x in pixels}


def slow_predicted(logits, ratio):
    """The predicted boundary of images (B, C, H, W), by a search for the threshold."""
    images, _, height, width = logits.shape
    change = torch.zeros(images, height, width, dtype=logits.dtype)
    for image, y, x in [(i, y, x) for i in range(images) for y in range(height) for x in range(width)]:
        for v, u in ((y, x + 1), (y + 1, x)):
            if v < height and u < width:
                change[image, y, x] += divergence(logits[image, :, y, x], logits[image, :, v, u])
    threshold = 1e-5
    while (change > threshold).sum() > ratio * height * width:
        threshold *= 1.2
    core = {tuple(pixel) for pixel in (change > threshold).nonzero().tolist()}
    return sorted(
        {
            (i, y + dy, x + dx)
            for i, y, x in core
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if 0 <= y + dy < height and 0 <= x + dx < width
        }
    )


def definition(logits, target, smoothing, clip, ratio, detach):
    height, width = target.shape[1:]
    distances = [slow_distances(label) for label in target]
    losses = []
    for image, y, x in slow_predicted(logits.detach(), ratio):
        around = [(y + dy, x + dx) for dy, dx in ORDER]
        far = [distances[image].get(pixel, 1e5) for pixel in around]
        direction = far.index(min(far))
        clamped = [(min(max(v, 0), height - 1), min(max(u, 0), width - 1)) for v, u in around]
        neighbours = [logits[image, :, v, u] for v, u in clamped]
        k = torch.stack([divergence(n.detach() if detach else n, logits[image, :, y, x]) for n in neighbours])
        weights = [1 - smoothing if index == direction else smoothing / 8 for index in range(8)]
        ce = -(torch.tensor(weights, dtype=k.dtype) * k.log_softmax(0)).sum()
        losses.append(min(distances[image][y, x], clip) / clip * ce)
    return torch.stack(losses).mean() if losses else 0 * logits.sum()


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 2), st.integers(4, 12), st.integers(4, 12)),
    patch=st.integers(4, 12),
    void=st.sampled_from([0.0, 0.02]),
    ratio=st.sampled_from([0.01, 0.1, 0.3]),
    smoothing=st.sampled_from([0.0, 0.2]),
    detach=st.booleans(),
    at_stride=st.booleans(),
)
def test_value_and_gradient_equal_the_definition(seed, size, patch, void, ratio, smoothing, detach, at_stride):
    generator = torch.Generator().manual_seed(seed)
    images, height, width = size
    target = patches(generator, images, 3, height, width, patch, void)
    shape = (images, 3, 3, 4) if at_stride else (images, 3, height, width)
    logits = torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
    expected = definition(upsampled(logits, target), target, smoothing, 3.0, ratio, detach)
    loss = ActiveBoundaryLoss(smoothing, 3.0, ratio, detach)(logits, target)
    torch.testing.assert_close(
        value_and_gradient(loss, logits), value_and_gradient(expected, logits), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("case", "abcdefghi")
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("detach", [False, True])
def test_values_equal_those_of_the_authors_code(real_data, detach, smoothing, case):
    expected = references(real_data, "loss_boundary")
    logits, labels = expected[f"{case}_logits"], expected[f"{case}_labels"]
    key = f"{case}_abl_ls{round(100 * smoothing)}"
    value, gradient = expected[f"{key}_value"], f"{key}_grad" if detach else f"{key}_nodetach_grad"
    loss = ActiveBoundaryLoss(smoothing, detach=detach)
    if case in "df":  # d: no predicted boundary, None there. f: no true boundary, distances to a point outside there.
        leaf = torch.tensor(logits, requires_grad=True)
        value, gradient = value_and_gradient(loss(leaf, torch.tensor(labels), True), leaf)
        assert value == 0
        assert not gradient.any()
    else:
        check_reference(loss, logits, labels, value, expected[gradient], align_corners=True)


def test_distances_equal_those_of_the_authors_code(real_data):
    expected = references(real_data, "loss_boundary")
    for case in "abcdeghi":
        labels = torch.tensor(expected[f"{case}_labels"]).long()
        assert (distances_to_boundary(labels, 255).numpy() == expected[f"{case}_abl_dist"]).all()


def problem_with_gradient(detach):
    torch.manual_seed(0)
    target = (torch.arange(14) >= 3).long().expand(1, 10, 14)
    return ActiveBoundaryLoss(max_N_ratio=0.2, detach=detach), torch.randn(1, 3, 10, 14, dtype=torch.float64), target


def test_the_gradient_equals_finite_differences():
    # Constants for the gradient are not constant for finite differences.
    loss, logits, target = problem_with_gradient(detach=False)
    logits.requires_grad_()
    assert torch.autograd.grad(loss(logits, target), logits)[0].any()
    assert torch.autograd.gradcheck(lambda each: loss(each, target), logits)


def test_with_detached_neighbours_fewer_pixels_have_a_gradient():
    pixels = []
    for detach in (False, True):
        loss, logits, target = problem_with_gradient(detach)
        (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), target), logits)
        pixels.append(int(gradient.any(dim=1).sum()))
    assert 0 < pixels[1] < pixels[0]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="label_smoothing to be from 0 to 1, got 2"):
        ActiveBoundaryLoss(label_smoothing=2)
    with pytest.raises(ValueError, match="max_clip_dist to be a positive, finite number of pixels, got 0"):
        ActiveBoundaryLoss(max_clip_dist=0)
    with pytest.raises(ValueError, match="max_N_ratio to be above 0 and at most 1, got 0"):
        ActiveBoundaryLoss(max_N_ratio=0)
