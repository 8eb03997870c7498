"""Several criteria as one, in Python and from YAML."""

import pytest
import torch
from losses_problem import patches

from cpg_lightning.cli import main
from cpg_lightning.losses import CrossEntropyCPGLoss, DiceLoss, JaccardLoss, LovaszSoftmaxLoss, WeightedSum


@pytest.fixture
def problem():
    torch.manual_seed(0)
    return torch.randn(2, 4, 5, 6), patches(torch.Generator().manual_seed(0), 2, 4, 20, 24, patch=5, void=0.1)


def test_the_loss_is_the_weighted_sum(problem):
    first, second = CrossEntropyCPGLoss(), LovaszSoftmaxLoss()
    logits = problem[0].requires_grad_()
    loss = WeightedSum([first, second], [0.5, 2])(logits, problem[1], True)
    expected = 0.5 * first(logits, problem[1], True) + 2 * second(logits, problem[1], True)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))


def test_the_terms_of_all_parts_are_unweighted(problem):
    first, second = CrossEntropyCPGLoss(), LovaszSoftmaxLoss()
    criterion = WeightedSum([first, second], [0.5, 2])
    criterion(*problem)
    first(*problem)
    second(*problem)
    assert criterion.terms == {**first.terms, **second.terms}
    assert list(criterion.terms) == ["ce", "cpg", "lovasz"]


class OtherDice(DiceLoss):
    """Another class with the same term."""


def test_equal_names_of_terms_are_prefixed_with_the_class(problem):
    criterion = WeightedSum([DiceLoss(), OtherDice(over="image"), JaccardLoss()], [1, 1, 1])
    criterion(*problem)
    assert list(criterion.terms) == ["DiceLoss/dice", "OtherDice/dice", "jaccard"]


def test_equal_names_of_one_class_are_numbered(problem):
    criterion = WeightedSum([CrossEntropyCPGLoss(), CrossEntropyCPGLoss(kernel_size=5), DiceLoss()], [1, 1, 1])
    criterion(*problem)
    names = [f"CrossEntropyCPGLoss{place}/{name}" for place in (1, 2) for name in ("ce", "cpg")]
    assert list(criterion.terms) == [*names, "dice"]


def test_a_part_of_weight_0_is_left_out(problem):
    criterion = WeightedSum([CrossEntropyCPGLoss(), LovaszSoftmaxLoss()], [1, 0])
    torch.testing.assert_close(criterion(*problem), CrossEntropyCPGLoss()(*problem))
    assert list(criterion.terms) == ["ce", "cpg"]


def test_the_auxiliary_output_gets_the_class_weights_of_the_cross_entropy(problem):
    weighted = CrossEntropyCPGLoss(class_weights=[1, 2, 3, 4])
    criterion = WeightedSum([LovaszSoftmaxLoss(), weighted], [1, 1])
    torch.testing.assert_close(criterion.auxiliary(*problem), weighted.auxiliary(*problem), rtol=0, atol=0)


def test_bad_arguments_are_refused():
    parts = [DiceLoss(), JaccardLoss()]
    with pytest.raises(ValueError, match="1 or more losses, got none"):
        WeightedSum([], [])
    with pytest.raises(ValueError, match="a weight for each of 2 losses, got 1"):
        WeightedSum(parts, [1])
    for weights in ([1, -1], [0, 0], [1, float("inf")], [1, float("nan")]):
        with pytest.raises(ValueError, match="weights of 0 or more, finite and not all 0, got"):
            WeightedSum(parts, weights)
    with pytest.raises(ValueError, match=r"one ignore_index, got \[255, 0\]"):
        WeightedSum([DiceLoss(), JaccardLoss(ignore_index=0)], [1, 1])


YAML = """
class_path: WeightedSum
init_args:
  losses:
    - class_path: CrossEntropyCPGLoss
      init_args: {cpg_weight: 0.5}
    - class_path: LovaszSoftmaxLoss
  weights: [1.0, 0.25]
"""


def test_a_weighted_sum_is_configured_in_yaml(tmp_path):
    (tmp_path / "sum.yaml").write_text(YAML)
    parts = ["--data=ShapesDataModule", "--model.network=LRASPP", "--model.criterion=sum.yaml"]
    criterion = main([*parts, "--model.criterion.weights=[1, 0.5]"], run=False).model.criterion
    assert [type(loss) for loss in criterion.losses] == [CrossEntropyCPGLoss, LovaszSoftmaxLoss]
    assert criterion.losses[0].cpg_weight == 0.5
    assert criterion.weights == (1.0, 0.5)
    assert criterion.ignore_index == 255
