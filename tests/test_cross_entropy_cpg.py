"""The criterion of training: cross-entropy of the upsampled logits plus weighted CPG."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cpg_lightning.losses import CrossEntropyCPGLoss, cpg_loss
from cpg_lightning.losses.fused.upsampling import Bilinear


@pytest.fixture
def problem(on_device):
    torch.manual_seed(0)
    target = torch.randint(0, 4, (2, 3, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    target[0, :5, :7] = 255
    return torch.randn(2, 4, 3, 4), target


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("options", [(3, True), (5, False)])
def test_the_loss_is_cross_entropy_plus_weighted_cpg_of_the_upsampled_logits(problem, align_corners, options):
    logits, target = problem
    kernel_size, void_borders = options
    large = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=align_corners)
    ce = F.cross_entropy(large, target, ignore_index=255)
    cpg = cpg_loss(large, target, kernel_size, void_borders=void_borders)
    criterion = CrossEntropyCPGLoss(0.3, kernel_size, void_borders=void_borders)
    torch.testing.assert_close(criterion(logits, target, align_corners), ce + 0.3 * cpg)
    torch.testing.assert_close(criterion.terms, {"ce": ce, "cpg": cpg})


def test_terms_are_detached(problem):
    criterion = CrossEntropyCPGLoss()
    criterion(problem[0].requires_grad_(), problem[1])
    assert not any(term.requires_grad for term in criterion.terms.values())


def test_weight_zero_is_plain_cross_entropy(problem):
    logits, target = problem
    criterion = CrossEntropyCPGLoss(cpg_weight=0)
    logits = F.interpolate(logits, target.shape[-2:])
    torch.testing.assert_close(criterion(logits, target), F.cross_entropy(logits, target, ignore_index=255))
    assert list(criterion.terms) == ["ce"]


@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"ohem_threshold": 0.7}, {"class_weights": [1, 2, 3, 4]}]
)
@pytest.mark.parametrize("ce_weight", [0.0, 0.25])
def test_cross_entropy_has_a_weight_too(problem, ce_weight, options):
    logits, target = problem[0].requires_grad_(), problem[1]
    large = F.interpolate(logits, target.shape[-2:], mode="bilinear")
    expected = 0.7 * cpg_loss(large, target)
    if ce_weight:
        expected = expected + ce_weight * CrossEntropyCPGLoss(0, **options)(logits, target)
    criterion = CrossEntropyCPGLoss(0.7, ce_weight=ce_weight, **options)
    loss = criterion(logits, target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))
    assert list(criterion.terms) == (["ce", "cpg"] if ce_weight else ["cpg"])
    torch.testing.assert_close(
        criterion.auxiliary(logits, target), CrossEntropyCPGLoss(0, **options).auxiliary(logits, target)
    )


def test_an_all_ignored_batch_is_zero_with_zero_gradient(problem):
    logits = problem[0].requires_grad_()
    criterion = CrossEntropyCPGLoss()
    loss = criterion(logits, torch.full((2, 24, 32), 255))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
    assert criterion.terms == {"ce": 0, "cpg": 0}


def test_the_auxiliary_output_gets_cross_entropy_alone(problem):
    logits, target = problem
    large = F.interpolate(logits, target.shape[-2:], mode="bilinear")
    auxiliary = CrossEntropyCPGLoss().auxiliary(logits, target)
    torch.testing.assert_close(auxiliary, F.cross_entropy(large, target, ignore_index=255))
    torch.testing.assert_close(auxiliary, CrossEntropyCPGLoss().auxiliary(logits, target.to(torch.uint8)))
    with pytest.raises(ValueError, match="integer target"):
        CrossEntropyCPGLoss().auxiliary(logits, target.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_upsampled_in_float32(problem, dtype):
    logits, target = problem[0].to(dtype), problem[1]
    loss = CrossEntropyCPGLoss()(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, CrossEntropyCPGLoss()(logits.float(), target), rtol=0, atol=0)


def test_the_state_dict_is_empty():
    assert not CrossEntropyCPGLoss().state_dict()


def test_bad_input_is_refused():
    logits, target = torch.randn(2, 4, 3, 4), torch.zeros(2, 24, 32, dtype=torch.long)
    with pytest.raises(ValueError, match="cpg_weight to be 0 or more and finite, got -1"):
        CrossEntropyCPGLoss(cpg_weight=-1)
    with pytest.raises(ValueError, match="ce_weight to be 0 or more and finite, got -1"):
        CrossEntropyCPGLoss(ce_weight=-1)
    with pytest.raises(ValueError, match="cpg_weight or ce_weight to be above 0, got 0 for both"):
        CrossEntropyCPGLoss(cpg_weight=0, ce_weight=0)
    with pytest.raises(ValueError, match="finite, got inf"):
        CrossEntropyCPGLoss(cpg_weight=float("inf"))
    with pytest.raises(ValueError, match="odd number of pixels"):
        CrossEntropyCPGLoss(kernel_size=4)
    # On the CPU only: a GPU's context is lost after a target value out of range.
    with pytest.raises(ValueError, match=r"0\.\.3 or ignore_index=255, got \[4\]"):
        CrossEntropyCPGLoss()(logits, torch.full_like(target, 4))


@st.composite
def problems(draw):
    """Logits no larger than a target of few, patchy classes with ignored pixels, down to one pixel and two classes."""
    images, classes = draw(st.integers(0, 2)), draw(st.sampled_from([2, 3, 5, 200]))
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    small = draw(st.integers(1, height)), draw(st.integers(1, width))
    if draw(st.booleans()):
        small = height, width
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    patch = draw(st.integers(1, 5))
    target = torch.randint(0, classes, (images, height, width), generator=generator)
    target = (
        target[:, ::patch, ::patch].repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, :height, :width].clone()
    )
    ignored = draw(st.sampled_from([0.0, 0.1, 1.0]))
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return 3 * torch.randn(images, classes, *small, dtype=torch.float64, generator=generator), target


def definition(logits, target, criterion, align_corners):
    """Cross-entropy and CPG of the upsampled logits, 0 where there is nothing to average over."""
    large = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=align_corners)
    weights = torch.tensor(criterion.class_weights or [1.0] * logits.shape[1], dtype=logits.dtype, device=logits.device)
    options = {"ignore_index": 255, "label_smoothing": criterion.label_smoothing, "reduction": "sum"}
    total = weights[target[target != 255]].sum()
    ce = F.cross_entropy(large, target, weights, **options) / (total if total > 0 else torch.inf)
    cpg = cpg_loss(large, target, criterion.kernel_size, void_borders=criterion.void_borders)
    return ce + criterion.cpg_weight * cpg


@settings(deadline=None, max_examples=200)
@given(
    problem=problems(),
    kernel_size=st.sampled_from([3, 5, 7, 11]),
    void_borders=st.booleans(),
    label_smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    weighted=st.booleans(),
    align_corners=st.booleans(),
    strip=st.sampled_from([1, 40, 1500, None, 2**26]),
)
def test_value_and_gradient_equal_the_definition(
    device, problem, kernel_size, void_borders, label_smoothing, weighted, align_corners, strip
):
    logits, target = (each.to(device) for each in problem)
    weights = (torch.arange(1, logits.shape[1] + 1) / 8).tolist() if weighted else None
    criterion = CrossEntropyCPGLoss(0.7, kernel_size, 255, void_borders, weights, label_smoothing, strip_logits=strip)
    expected = definition(logits.requires_grad_(), target, criterion, align_corners)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss = criterion(logits, target, align_corners)
    (gradient,) = torch.autograd.grad(3 * loss, logits)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient, 3 * expected_gradient, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(criterion(logits, target, align_corners), loss)


@pytest.mark.parametrize("size", [(24, 32), (3, 4)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_float32_is_as_exact_as_the_definition(problem, size, align_corners):
    target = problem[1]
    logits = torch.randn(2, 4, *size, requires_grad=True)
    criterion = CrossEntropyCPGLoss(0.7)
    expected = definition(logits, target, criterion, align_corners)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss = criterion(logits, target, align_corners)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert (gradient - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()


def test_gradient_is_the_derivative_of_the_value(problem):
    logits, target = problem[0].double().requires_grad_(), problem[1]
    for options in ({}, {"class_weights": [0.5, 1, 2, 3], "label_smoothing": 0.2}):
        assert torch.autograd.gradcheck(CrossEntropyCPGLoss(0.7, **options), (logits, target))


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.9, 131072), (0.7, 1000), (0.1, 20000), (0.05, 100)])
@pytest.mark.parametrize("weighted", [False, True])
def test_ohem_equals_the_official_code(real_data, threshold, min_kept, weighted):
    folder = real_data / "golden" / "hrnet_ocr"
    golden = json.loads((folder / "losses.json").read_text())
    main, aux = (torch.from_numpy(np.load(folder / "outputs.npz")[name]) for name in ("main", "aux"))
    target = torch.from_numpy(np.load(folder / "loss_target.npz")["target"]).long()
    weights = golden["class_weights"] if weighted else None
    criterion = CrossEntropyCPGLoss(0, class_weights=weights, ohem_threshold=threshold, ohem_min_kept=min_kept)
    # The official sum: 0.4 times the auxiliary output, there over all pixels with ignored ones as 0, and the main one.
    large = F.interpolate(aux, target.shape[-2:], mode="bilinear", align_corners=True)
    options = {"weight": weights and torch.tensor(weights), "ignore_index": 255, "reduction": "none"}
    found = 0.4 * F.cross_entropy(large, target, **options).mean() + criterion(main, target, align_corners=True)
    name = f"ohem_{'weighted' if weighted else 'plain'}_thr{threshold}_keep{min_kept}"
    assert found.item() == pytest.approx(golden["values"][name], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("stride", [1, 8])
def test_autocast_changes_nothing(problem, dtype, stride):
    target = problem[1]
    exact = {"rtol": 0, "atol": 0}
    logits = torch.randn(2, 4, 24 // stride, 32 // stride, dtype=dtype, requires_grad=True)
    criterion = CrossEntropyCPGLoss(label_smoothing=0.1)
    with torch.autocast(target.device.type, dtype=torch.bfloat16):
        inside = criterion(logits, target)
    outside = criterion(logits, target)
    torch.testing.assert_close(inside, outside, **exact)
    gradients = (torch.autograd.grad(loss, logits) for loss in (inside, outside))
    torch.testing.assert_close(*gradients, **({} if target.is_cuda else exact))  # a GPU adds in any order


def test_matrix_products_are_exact_and_the_global_setting_is_kept(problem, monkeypatch):
    backends, seen, strip = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul), [], Bilinear.upsample

    def spied(*arguments):
        seen.extend(backend.fp32_precision for backend in backends)
        return strip(*arguments)

    monkeypatch.setattr(Bilinear, "upsample", spied)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        CrossEntropyCPGLoss(strip_logits=2**26)(*problem)  # by PyTorch's operators on a GPU too
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"ieee"}


@pytest.mark.filterwarnings("ignore:Dynamo")
def test_compiling_the_network_and_the_criterion_changes_no_training(problem):
    images, target = torch.randn(2, 3, 12, 16), problem[1]
    network, criterion = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), CrossEntropyCPGLoss()

    def gradient(network, criterion):
        return torch.autograd.grad(criterion(network(images), target), list(network.parameters()))

    expected = gradient(network, criterion)
    compiled = torch.compile(network, backend="eager")
    torch.testing.assert_close(gradient(compiled, criterion), expected)
    torch.testing.assert_close(gradient(compiled, torch.compile(criterion, backend="eager")), expected)


def test_the_gradient_adds_up_over_micro_batches_and_repeats(problem):
    logits, target = problem[0].requires_grad_(), problem[1]
    loss = CrossEntropyCPGLoss()(logits, target)
    (expected,) = torch.autograd.grad(loss, logits, retain_graph=True)
    for _ in range(2):
        loss.backward(retain_graph=True)
    (loss / 2).backward()
    torch.testing.assert_close(logits.grad, 2.5 * expected)


def _gradient_of_one_image(rank, logits, target, gradients):
    torch.distributed.init_process_group("gloo", f"file://{gradients}/together", rank=rank, world_size=2)
    network = torch.nn.parallel.DistributedDataParallel(torch.nn.Conv2d(4, 4, 1, bias=False))
    network.module.weight.data.fill_(0.5)
    CrossEntropyCPGLoss()(network(logits[rank : rank + 1]), target[rank : rank + 1]).backward()
    torch.save(network.module.weight.grad, gradients / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_under_ddp_the_gradient_is_the_mean_over_processes(tmp_path):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 3, 4), torch.randint(0, 4, (2, 24, 32))
    torch.multiprocessing.spawn(_gradient_of_one_image, (logits, target, tmp_path), nprocs=2)
    gradients = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    network = torch.nn.Conv2d(4, 4, 1, bias=False)
    network.weight.data.fill_(0.5)
    loss = sum(CrossEntropyCPGLoss()(network(logits[b : b + 1]), target[b : b + 1]) for b in range(2)) / 2
    loss.backward()
    for gradient in gradients:
        torch.testing.assert_close(gradient, network.weight.grad)


def test_ohem_keeps_only_the_hard_pixels(problem):
    logits, target = problem
    logits = F.interpolate(logits.double(), target.shape[-2:]).requires_grad_()
    likelihood = logits.softmax(1).gather(1, target.where(target != 255, 0)[:, None])[:, 0]
    for threshold, min_kept in ((0.2, 5), (0.2, 450), (0.5, 5), (1.0, 10**6)):
        ordered = likelihood[target != 255].sort().values
        bound = max(threshold, ordered[min(min_kept * len(logits), len(ordered) - 1)].item())
        kept = target.where(likelihood < bound, 255)
        expected = F.cross_entropy(logits, kept, ignore_index=255) + cpg_loss(logits, target)
        loss = CrossEntropyCPGLoss(ohem_threshold=threshold, ohem_min_kept=min_kept)(logits, target)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))


def test_ohem_keeps_the_same_number_of_pixels_per_image_at_any_batch_size(problem):
    logits, target = (tensor[:1] for tensor in problem)
    criterion = CrossEntropyCPGLoss(0, ohem_threshold=0.01, ohem_min_kept=100)
    four = logits.expand(4, -1, -1, -1), target.expand(4, -1, -1)
    torch.testing.assert_close(criterion(*four), criterion(logits, target))


@pytest.mark.parametrize("pixels", [0, 1])
def test_ohem_of_a_few_pixels_is_finite(pixels):
    target = torch.full((1, 4, 4), 255)
    target.view(-1)[:pixels] = 0
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = CrossEntropyCPGLoss(ohem_threshold=0.9)(logits, target)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_class_weights_go_to_the_auxiliary_output_and_not_to_the_state_dict(problem):
    logits, target = problem
    criterion = CrossEntropyCPGLoss(class_weights=[1, 2, 3, 4])
    large = F.interpolate(logits, target.shape[-2:], mode="bilinear")
    weights = torch.tensor([1.0, 2, 3, 4])
    torch.testing.assert_close(
        criterion.auxiliary(logits, target), F.cross_entropy(large, target, weights, ignore_index=255)
    )
    assert not criterion.state_dict()


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda weights: (each for each in weights)])
def test_class_weights_of_any_kind_keep_the_precision_of_the_logits(problem, kind):
    logits, target = problem[0].double(), problem[1]
    weights = [0.1, 0.7, 1 / 3, 1.1]
    criterion = CrossEntropyCPGLoss(0, class_weights=kind(weights)).bfloat16()
    large = F.interpolate(logits, target.shape[-2:], mode="bilinear")
    with torch.inference_mode():
        criterion(logits, target)
    if kind is torch.tensor:  # of float32
        weights = torch.tensor(weights).tolist()
    expected = F.cross_entropy(large, target, torch.tensor(weights, dtype=torch.float64), ignore_index=255)
    for loss in (criterion, criterion.auxiliary):
        torch.testing.assert_close(loss(logits, target), expected, rtol=1e-12, atol=0)
    criterion.auxiliary(logits.requires_grad_(), target).backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": []}, "one per class"),
        ({"class_weights": [1.0, -1.0]}, "finite numbers of 0 or more"),
        ({"label_smoothing": 1.5}, "from 0 to 1"),
        ({"ohem_threshold": 0.0}, "probability above 0"),
        ({"ohem_threshold": 0.9, "ohem_min_kept": -1}, "0 or more pixels an image"),
        ({"ohem_threshold": 0.9, "label_smoothing": 0.1}, "got both"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CrossEntropyCPGLoss(**options)


def test_another_number_of_class_weights_is_refused(problem):
    criterion = CrossEntropyCPGLoss(class_weights=[1, 2])
    for loss in (criterion, criterion.auxiliary):
        with pytest.raises(ValueError, match="expected 4 class_weights, one per class, got 2"):
            loss(*problem)


@pytest.mark.parametrize("stride", [1, 4])
def test_large_logits_stay_finite_and_right(stride):
    torch.manual_seed(0)
    logits = (1e4 * torch.randn(2, 5, 12 // stride, 16 // stride)).requires_grad_()
    target = torch.randint(0, 5, (2, 12, 16))
    loss = CrossEntropyCPGLoss()(logits, target)
    loss.backward()
    large = F.interpolate(logits.detach(), target.shape[-2:], mode="bilinear")
    torch.testing.assert_close(loss.detach(), F.cross_entropy(large, target) + cpg_loss(large, target))
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 2.0**16])
def test_gradients_of_half_precision_keep_what_a_loss_scale_saves(scale):
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 256, 256).half().requires_grad_()
    target = torch.randint(0, 3, (1, 256, 256))
    expected = torch.autograd.grad(scale * CrossEntropyCPGLoss()(logits.float(), target), logits)[0]
    (scale * CrossEntropyCPGLoss()(logits, target)).backward()
    torch.testing.assert_close(logits.grad, expected)
    assert logits.grad.isfinite().all()


def test_a_gradient_that_was_changed_is_not_used_again(problem):
    logits, target = problem[0].requires_grad_(), problem[1]
    loss = CrossEntropyCPGLoss()(logits, target)
    changed = torch.autograd.grad(loss, logits, retain_graph=True)[0].mul_(2)
    if logits.device.type == "cpu":  # where the first gradient is the one that was kept
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(loss, logits)
    else:
        torch.testing.assert_close(2 * torch.autograd.grad(loss, logits)[0], changed)
    loss = CrossEntropyCPGLoss()(logits, target)
    loss.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def test_pixels_of_classes_with_weight_0_alone_give_a_loss_of_0():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = CrossEntropyCPGLoss(0, class_weights=[0, 1], label_smoothing=0.1)(
        logits, torch.zeros(1, 4, 4, dtype=torch.long)
    )
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_an_ignored_pixel_may_have_infinite_logits(label_smoothing):
    target = torch.tensor([[[255, 1], [1, 1]]])
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0, 0, 0] = -torch.inf
    expected = F.cross_entropy(logits, target, ignore_index=255, label_smoothing=label_smoothing)
    torch.testing.assert_close(CrossEntropyCPGLoss(0, label_smoothing=label_smoothing)(logits, target), expected)


@pytest.mark.parametrize("shape", [(1, 0, 4, 4), (1, 2, 0, 4), (1, 2, 4, 0)])
def test_empty_images_are_refused(shape):
    with pytest.raises(ValueError, match="expected classes and pixels"):
        CrossEntropyCPGLoss()(torch.zeros(shape), torch.zeros(1, *shape[2:], dtype=torch.long))


def test_memory_layouts_and_a_second_derivative(problem):
    logits, target = problem
    expected = CrossEntropyCPGLoss()(logits, target)
    for layout in (
        logits.contiguous(memory_format=torch.channels_last),
        logits.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        layout = layout.detach().requires_grad_()
        loss = CrossEntropyCPGLoss()(layout, target)
        torch.testing.assert_close(loss.detach(), expected)
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(loss, layout, create_graph=True)
    turned = target.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(CrossEntropyCPGLoss()(logits, turned), expected)
