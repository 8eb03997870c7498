"""The CPG loss against the reference values, a literal oracle and its own definition."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpg_lightning.losses import CPGLoss, cpg_loss
from cpg_lightning.losses.cpg import boundary_entries, integer_kernel, probability_gradient

pytestmark = pytest.mark.usefixtures("on_device")

GOLDEN = np.load(Path(__file__).parent / "golden" / "cpg_loss.npz")


def oracle(logits, target, kernel_size, ignore_index, void_borders):
    """The definition, entry by entry, in float64 and exact fractions."""
    images, classes, height, width = logits.shape
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    offsets = range(-(kernel_size // 2), kernel_size // 2 + 1)
    squares = []
    for b, y, x in np.ndindex(images, height, width):
        window = [
            (dy, dx, min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1))
            for dy in offsets
            for dx in offsets
        ]
        touches_void = any(target[b, v, u] == ignore_index for _, _, v, u in window)
        if target[b, y, x] == ignore_index or (touches_void and not void_borders):
            continue
        for c in range(classes):
            for horizontal in (True, False):
                predicted, true = 0.0, Fraction()
                for dy, dx, v, u in window:
                    if (dy, dx) != (0, 0):
                        weight = Fraction(dx if horizontal else dy, dx * dx + dy * dy)
                        predicted += float(weight) * probabilities[b, c, v, u]
                        true += weight * int(target[b, v, u] == c and c != ignore_index)
                if true != 0:
                    squares.append((predicted - float(true)) ** 2)
    return float(np.mean(squares)) if squares else 0.0


@st.composite
def problems(draw):
    """Logits and a target of few, patchy classes with ignored pixels, down to one pixel and two classes."""
    images, classes = draw(st.integers(1, 2)), draw(st.integers(2, 4))
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    target = rng.integers(0, classes, (images, height, width))
    if draw(st.booleans()):
        target = np.sort(target, axis=draw(st.integers(1, 2)))
    target[rng.random(target.shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))] = 255
    return 3 * rng.standard_normal((images, classes, height, width)), target


@pytest.mark.parametrize("case", range(int(GOLDEN["n"])))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_value_and_gradient_equal_the_reference(case, dtype):
    expected = {
        name: GOLDEN[f"case{case}_{name}"] for name in ("loss", "grad", "kernel_size", "ignore_index", "entries")
    }
    logits = torch.tensor(GOLDEN[f"case{case}_logits"], dtype=dtype, requires_grad=True)
    target = torch.tensor(GOLDEN[f"case{case}_target"])
    arguments = int(expected["kernel_size"]), int(expected["ignore_index"])
    loss = cpg_loss(logits, target, *arguments)
    loss.backward()
    assert loss.item() == pytest.approx(float(expected["loss"]), rel=1e-5)
    gradient = torch.tensor(expected["grad"], dtype=dtype)
    assert (logits.grad - gradient).norm() <= 1e-5 * gradient.norm()
    _, boundary = boundary_entries(target.long(), logits.shape[1], *arguments)
    assert boundary.sum() == int(expected["entries"])


@settings(deadline=None, max_examples=60)
@given(problems(), st.sampled_from([3, 5, 7]), st.booleans())
def test_value_equals_the_definition(problem, kernel_size, void_borders):
    logits, target = problem
    loss = cpg_loss(torch.tensor(logits), torch.tensor(target), kernel_size, void_borders=void_borders)
    assert loss.item() == pytest.approx(oracle(logits, target, kernel_size, 255, void_borders), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_gradient_is_the_derivative_of_the_value(kernel_size):
    torch.manual_seed(0)
    target = torch.randint(0, 3, (2, 5, 6))
    target[0, 0, :2] = 255
    logits = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: cpg_loss(z, target, kernel_size), logits)


def test_kernel_of_size_3_is_sobel_divided_by_2():
    assert integer_kernel(3) == ([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], 2)


@pytest.mark.parametrize(("kernel_size", "denominator"), [(3, 2), (5, 20), (7, 780)])
def test_kernel_is_integer_over_its_least_common_denominator(kernel_size, denominator):
    integers, found = integer_kernel(kernel_size)
    assert found == denominator
    radius = kernel_size // 2
    for (y, x), integer in np.ndenumerate(np.array(integers)):
        dy, dx = y - radius, x - radius
        assert Fraction(int(integer), found) == (Fraction(dx, dx * dx + dy * dy) if dx else 0)


@pytest.mark.parametrize(("kernel_size", "response"), [(3, 2.0), (5, 4.2), (7, 6.436)])
def test_a_straight_step_has_the_published_response(kernel_size, response):
    step = torch.zeros(1, 1, 20, 20)
    step[..., 10:] = 1
    horizontal, vertical = probability_gradient(step, kernel_size)[0, 0]
    assert horizontal.max().item() == pytest.approx(response, abs=1e-3)
    assert vertical.abs().max() == 0


@pytest.mark.parametrize("kernel_size", [3, 5, 7, 9, 15])
def test_interiors_of_regions_are_not_boundary(kernel_size):
    target = torch.zeros(1, 40, 40, dtype=torch.long)
    target[..., 20:] = 1
    _, boundary = boundary_entries(target, 2, kernel_size)
    columns = boundary[0, :, 0].any(dim=0).any(dim=0).nonzero().flatten()
    radius = kernel_size // 2
    assert columns.tolist() == list(range(20 - radius, 20 + radius))
    assert not boundary[0, :, 1].any()


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_a_one_pixel_line_has_boundary_entries_only_beside_it(kernel_size):
    target = torch.zeros(1, 1, 21, dtype=torch.long)
    target[..., 10] = 1
    _, boundary = boundary_entries(target, 2, kernel_size)
    assert not boundary[..., 10].any()
    assert boundary[..., 9].any()


@pytest.mark.parametrize(
    "target", [torch.full((2, 8, 8), 1), torch.full((2, 8, 8), 255)], ids=["one class", "all ignored"]
)
def test_without_a_boundary_value_and_gradient_are_zero(target, device):
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    loss = cpg_loss(logits, target.to(device))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_the_loss_of_an_empty_batch_is_zero():
    logits = torch.randn(0, 3, 8, 8, requires_grad=True)
    loss = cpg_loss(logits, torch.zeros(0, 8, 8, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0


def test_the_loss_around_an_ignored_region_is_nonzero_only_with_void_borders():
    target = torch.zeros(1, 32, 32, dtype=torch.long)
    target[:, 11:21, 11:21] = 255
    logits = torch.zeros(1, 2, 32, 32)
    logits[:, 0] = 100
    assert cpg_loss(logits, target, void_borders=True).item() == pytest.approx(2.7, abs=0.05)
    assert cpg_loss(logits, target, void_borders=False).item() == 0


def test_ignore_index_may_be_one_of_the_classes():
    logits = torch.randn(1, 3, 6, 6)
    target = torch.randint(0, 3, (1, 6, 6))
    elsewhere = target.where(target != 0, 255)
    torch.testing.assert_close(cpg_loss(logits, target, ignore_index=0), cpg_loss(logits, elsewhere, ignore_index=255))


def test_small_integer_types_do_not_overflow():
    logits = torch.randn(1, 200, 6, 6)
    target = torch.randint(150, 160, (1, 6, 6))
    expected = cpg_loss(logits, target, ignore_index=-100)
    torch.testing.assert_close(cpg_loss(logits, target.to(torch.uint8), ignore_index=-100), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits, target = torch.randn(1, 4, 9, 9, dtype=dtype), torch.randint(0, 4, (1, 9, 9))
    loss = cpg_loss(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cpg_loss(logits.float(), target), rtol=0, atol=0)


@pytest.mark.parametrize("kernel_size", [3, 15])
def test_gradients_of_half_precision_maps_do_not_overflow(kernel_size):
    maps = torch.rand(1, 1, 20, 20).half()
    gradient = probability_gradient(maps, kernel_size)
    torch.testing.assert_close(gradient, probability_gradient(maps.float(), kernel_size), rtol=0, atol=0)


def test_autocast_changes_nothing(device):
    logits, target = torch.randn(1, 4, 9, 9), torch.randint(0, 4, (1, 9, 9))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        inside = cpg_loss(logits, target)
    torch.testing.assert_close(inside, cpg_loss(logits, target), rtol=0, atol=0)


def test_large_logits_stay_finite():
    logits = (1e4 * torch.randn(1, 4, 9, 9)).requires_grad_()
    loss = cpg_loss(logits, torch.randint(0, 4, (1, 9, 9)))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_module_and_function_agree():
    logits, target = torch.randn(1, 4, 9, 9), torch.randint(0, 4, (1, 9, 9))
    target[0, :2] = 7
    module = CPGLoss(kernel_size=5, ignore_index=7, void_borders=False)
    assert module(logits, target) == cpg_loss(logits, target, 5, 7, False)


def test_the_kernel_is_neither_a_parameter_nor_in_the_state_dict():
    assert not CPGLoss().state_dict()
    assert not list(CPGLoss().parameters())


@pytest.mark.parametrize("kernel_size", [-3, 0, 1, 2, 4, 17, 3.0, "3"])
def test_an_invalid_kernel_size_is_refused(kernel_size):
    with pytest.raises(ValueError, match="odd number of pixels from 3 to 15"):
        CPGLoss(kernel_size)
    with pytest.raises(ValueError, match="odd number of pixels from 3 to 15"):
        cpg_loss(torch.randn(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long), kernel_size)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (
            torch.randn(2, 4, 4),
            torch.zeros(2, 4, 4).long(),
            r"expected logits of shape \(B, C, H, W\), got \(2, 4, 4\)",
        ),
        (torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4).long(), r"got \(2, 3, 4, 4\); a one-hot .*argmax\(dim=1\)$"),
        (torch.randn(2, 3, 4, 4), torch.zeros(2, 1, 4, 4).long(), r"got \(2, 1, 4, 4\); pass target\[:, 0\]$"),
        (torch.randn(2, 3, 4, 4), torch.zeros(2, 5, 4, 4).long(), r"got \(2, 5, 4, 4\)$"),
        (torch.randn(2, 1, 4, 4), torch.zeros(2, 4, 4).long(), "got 1; name the background as a class"),
        (torch.randn(2, 3, 4, 4), torch.zeros(1, 4, 4).long(), "2 and 1 images"),
        (torch.randn(2, 3, 2, 2), torch.zeros(2, 4, 4).long(), r"size of the target, \(4, 4\) pixels, got \(2, 2\)"),
        (torch.zeros(2, 3, 4, 4).long(), torch.zeros(2, 4, 4).long(), "floating-point logits, got torch.int64"),
        (torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4), "integer target, got torch.float32"),
        (torch.randn(2, 3, 4, 4), torch.full((2, 4, 4), 3), r"0\.\.2 or ignore_index=255, got \[3\]"),
        (torch.randn(2, 3, 4, 4), torch.full((2, 4, 4), -1), r"got \[-1\]"),
    ],
)
def test_invalid_logits_and_targets_are_refused(logits, target, message):
    with pytest.raises(ValueError, match=message):
        cpg_loss(logits, target)
