"""What a training step's criterion launches on an accelerator, and where the host waits, counted on a simulated one."""

import pytest
import torch
from conftest import simulated

from cpg_lightning.losses import (
    ActiveBoundaryLoss,
    CrossEntropyCPGLoss,
    DiceLoss,
    JaccardLoss,
    LovaszSoftmaxLoss,
    RMILoss,
)

PER_CALL, PER_STRIP, WAITS = 200, 60, 4


def counted(criterion, shape, size, auxiliary=False):
    """Launches and waits of a forward and backward pass."""
    torch.manual_seed(0)
    target = torch.zeros(shape[0], *size, dtype=torch.long)
    target[:, 10:40, 50:] = 1
    target[:, 30:60, 80:110] = 2  # a third label in some windows
    target[:, :20, :30] = 255
    loss = criterion.auxiliary if auxiliary else criterion
    with simulated() as device:
        logits, target = torch.randn(shape).to(device.device).requires_grad_(), target.to(device.device)
        loss(logits, target)  # weights of classes are copied to the device once
        device.reset()
        loss(logits, target).backward()
    return device.launches, device.waits


@pytest.mark.parametrize("images", [1, 2, 6])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_size": 7},
        {"void_borders": False, "class_weights": [1.0] * 7},
        {"label_smoothing": 0.1},
        {"ohem_threshold": 0.7},
    ],
)
@pytest.mark.parametrize("stride", [1, 8])
def test_launches_and_waits_of_the_criterion_are_few_at_any_batch_size(images, options, stride):
    height, width = 256, 512
    image = 7 * height * width
    criterion = CrossEntropyCPGLoss(**options, strip_logits=2 * image)
    launches, waits = counted(criterion, (images, 7, height // stride, width // stride), (height, width))
    assert launches <= PER_CALL + PER_STRIP * -(-images // 2)
    assert waits.total() <= WAITS
    assert all("boundary.py" in place for _, place in waits)


def test_the_auxiliary_loss_never_waits():
    launches, waits = counted(CrossEntropyCPGLoss(), (2, 7, 8, 16), (64, 128), auxiliary=True)
    assert launches <= PER_CALL
    assert not waits


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize(
    ("loss", "launches", "waits"),
    [
        (DiceLoss(), 80, 0),
        (JaccardLoss(over="class"), 80, 0),
        (LovaszSoftmaxLoss(), 250, 2),
        (ActiveBoundaryLoss(), 100, 4),
    ],
)
def test_launches_and_waits_of_other_losses_are_few(loss, launches, waits, images):
    found, where = counted(loss, (images, 7, 10, 20), (80, 160))
    assert found <= launches + 20 * images, where
    assert sum(where.values()) <= waits, where


@pytest.mark.parametrize("images", [1, 4])
def test_rmi_launches_per_image_and_never_waits(images):
    launches, waits = counted(RMILoss(), (images, 7, 10, 20), (80, 160))
    assert launches <= 200 * images
    assert not waits
