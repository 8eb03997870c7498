"""The samples that torch tests its own cross-entropy with hold for the criterion."""

import multiprocessing

import pytest
import torch
import torch.nn.functional as F

from cpg_lightning.losses import CrossEntropyCPGLoss

pytest.importorskip("expecttest", reason="torch.testing._internal needs it")


def operator_samples():
    """Logits, target and options of the samples for the function, of mean reduction and labels that are classes."""
    from torch.testing._internal.common_methods_invocations import op_db

    (operator,) = (each for each in op_db if each.name == "nn.functional.cross_entropy")
    for sample in operator.sample_inputs("cpu", torch.float64, requires_grad=True):
        yield sample.input, *sample.args, sample.kwargs


def module_samples():
    """The same of the samples for the module."""
    from torch.testing._internal.common_modules import module_db

    (module,) = (each for each in module_db if each.module_cls is torch.nn.CrossEntropyLoss)
    for sample in module.module_inputs_func(
        module, device="cpu", dtype=torch.float64, requires_grad=True, training=True
    ):
        yield *sample.forward_input.args, sample.constructor_input.kwargs


def as_images(logits, target):
    """Logits (B, C, *) as (B, C, H, W), and a target (B, *) as (B, H, W)."""
    if not target.ndim:
        logits, target = logits[None], target[None]
    return logits.reshape(*logits.shape[:2], 1, -1), target.reshape(len(target), 1, -1)


def compare(samples, at_least, device):
    """Compare value and gradient of each sample, on a device, with torch's on the CPU."""
    torch.manual_seed(0)
    compared = 0
    for logits, target, options in samples():
        if options.get("reduction") not in (None, "mean") or target.is_floating_point():
            continue
        options = {key: value for key, value in options.items() if key != "reduction"}
        ignore_index, weights = options.get("ignore_index", -100), options.get("weight")
        images, labels = (each.to(device) for each in as_images(logits, target))
        if weights is not None and weights.min() < 0:
            with pytest.raises(ValueError, match="finite numbers of 0 or more"):
                CrossEntropyCPGLoss(0, class_weights=weights)
            continue
        smoothing = options.get("label_smoothing", 0.0)
        criterion = CrossEntropyCPGLoss(0, ignore_index=ignore_index, class_weights=weights, label_smoothing=smoothing)
        expected, loss = F.cross_entropy(logits, target, **options), criterion(images, labels).cpu()
        if (target == ignore_index).all():
            assert loss == 0  # where torch has NaN
            continue
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))
        compared += 1
    assert compared >= at_least


@pytest.fixture(scope="module")
def process():
    """Importing the samples forbids a process to change torch's backends, which other tests do."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


@pytest.mark.parametrize(("samples", "at_least"), [(operator_samples, 6), (module_samples, 15)])
def test_weight_zero_has_value_and_gradient_of_torchs_cross_entropy(device, process, samples, at_least):
    if device.type == "simulated":
        pytest.skip("another process does not simulate the device")
    process.apply(compare, (samples, at_least, device))
