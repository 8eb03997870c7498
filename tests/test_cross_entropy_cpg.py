"""The criterion of training: cross-entropy of the enlarged logits plus weighted CPG."""

import pytest
import torch
import torch.nn.functional as F

from cpg_lightning.losses import CrossEntropyCPGLoss, cpg_loss


@pytest.fixture
def problem():
    torch.manual_seed(0)
    target = torch.randint(0, 4, (2, 3, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    target[0, :5, :7] = 255
    return torch.randn(2, 4, 3, 4), target


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("options", [(3, True), (5, False)])
def test_it_is_cross_entropy_plus_weighted_cpg_of_the_enlarged_logits(problem, align_corners, options):
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
def test_half_precision_logits_are_enlarged_in_float32(problem, dtype):
    logits, target = problem[0].to(dtype), problem[1]
    loss = CrossEntropyCPGLoss()(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, CrossEntropyCPGLoss()(logits.float(), target), rtol=0, atol=0)


def test_the_state_dict_is_empty():
    assert not CrossEntropyCPGLoss().state_dict()


def test_bad_input_is_refused(problem):
    logits, target = problem
    with pytest.raises(ValueError, match="cpg_weight to be 0 or more and finite, got -1"):
        CrossEntropyCPGLoss(cpg_weight=-1)
    with pytest.raises(ValueError, match="finite, got inf"):
        CrossEntropyCPGLoss(cpg_weight=float("inf"))
    with pytest.raises(ValueError, match="odd number of pixels"):
        CrossEntropyCPGLoss(kernel_size=4)
    with pytest.raises(ValueError, match=r"0\.\.3 or ignore_index=255, got \[4\]"):
        CrossEntropyCPGLoss()(logits, torch.full_like(target, 4))
