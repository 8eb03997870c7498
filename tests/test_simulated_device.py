"""The simulated accelerator counts what a real one would do."""

import pytest
import torch
import torch.nn.functional as F
from conftest import simulated
from simulated_device import DEVICE


@pytest.fixture
def counted():
    with simulated() as counted:
        yield counted


def here(values, counted):
    """Values on the device, whose copy does not count."""
    moved = torch.as_tensor(values).to(DEVICE)
    counted.reset()
    return moved


def test_results_are_those_of_the_cpu(counted):
    values = torch.randn(3, 5)
    moved = values.to(DEVICE)
    assert moved.device == DEVICE
    assert torch.equal(moved.softmax(1).cpu(), values.softmax(1))


@pytest.mark.parametrize(
    ("wait", "number"),
    [
        (lambda values: values.sum().item(), 1),
        (lambda values: float(values.sum()), 1),
        (lambda values: bool((values > 1).any()), 1),
        (lambda values: f"{values.sum():.1f}", 1),
        (lambda values: values.tolist(), 1),
        (lambda values: values.cpu(), 1),
        (lambda values: values.to("cpu"), 1),
        (lambda values: torch.empty(4).copy_(values), 1),
        (lambda values: values.nonzero(), 1),
        (lambda values: torch.where(values > 1), 1),
        (lambda values: values[values > 1], 1),
        (lambda values: values.masked_select(values > 1), 1),
        (lambda values: values.index_put_((values > 1,), torch.tensor(0.0)), 1),
        (lambda values: values.unique(), 1),
        (lambda values: torch.equal(values, values + 1), 1),
        (lambda values: values.repeat_interleave(values.long()), 1),
        (lambda values: torch.bincount(values.long()), 2),
        (lambda values: torch.tensor([1.0, 2.0], device=values.device), 1),
        (lambda values: torch.tensor(1.0, device=values.device), 1),
        (lambda values: values.new_tensor([1.0, 2.0]), 1),
        (lambda values: torch.ones(4).to(values.device), 1),
        (lambda values: values.copy_(torch.ones(4)), 1),
        (lambda values: values[torch.tensor([0, 1])], 1),
    ],
)
def test_a_wait_is_found_with_its_place(counted, wait, number):
    values = here([0.0, 1.0, 2.0, 3.0], counted)
    wait(values)
    assert counted.waits.total() == number
    line = wait.__code__.co_firstlineno
    assert {place for _, place in counted.waits} == {f"tests/test_simulated_device.py:{line}"}


@pytest.mark.parametrize(
    "call",
    [
        lambda values: (values + 1).relu_().sum(),
        lambda values: values.repeat_interleave(values.long(), output_size=6),
        lambda values: values[values.long()],
        lambda values: values.where(values > 1, 0),
        lambda values: values * torch.tensor(2.0),  # a single number of the host is an argument of the kernel
        lambda values: torch.arange(4, device=values.device) + torch.zeros_like(values),
        lambda values: torch.ones(4).to(values.device, non_blocking=True),
        lambda values: values.to("cpu", non_blocking=True),
    ],
)
def test_asynchronous_copies_are_not_waits(counted, call):
    values = here([0.0, 1.0, 2.0, 3.0], counted)
    call(values)
    assert counted.launches > 0
    assert not counted.waits


@pytest.mark.parametrize(
    "view",
    [
        lambda values: values.view(4),
        lambda values: values[1:, None],
        lambda values: values.t().expand(3, 2, 2),
        lambda values: values.unfold(1, 2, 1),
        lambda values: values.detach(),
        lambda values: values.unbind(),
        lambda values: torch.empty_like(values),
    ],
)
def test_a_view_is_no_launch(counted, view):
    values = here([[0.0, 1.0], [2.0, 3.0]], counted)
    view(values)
    assert (counted.launches, counted.bytes) == (0, 0)


def test_views_share_their_memory(counted):
    values = here([[0.0, 1.0], [2.0, 3.0]], counted)
    values[0] += 5
    values.t()[1].zero_()
    assert values.tolist() == [[5.0, 0.0], [2.0, 0.0]]


@pytest.mark.parametrize(
    "mix",
    [
        lambda values: values + torch.ones(4),
        lambda values: torch.ones(4) + values,
        lambda values: torch.cat([values, torch.ones(4)]),
        lambda values: values.add_(torch.ones(4)),
        lambda values: torch.ones(4).add_(values),
        lambda values: values.gather(0, torch.tensor([1])),
        lambda values: torch.zeros(4)[values.long()],
    ],
)
def test_a_mix_of_devices_is_an_error(counted, mix):
    values = here([0.0, 1.0, 2.0, 3.0], counted)
    with pytest.raises(RuntimeError, match=r"on one device, got .*test_simulated_device\.py"):
        mix(values)


def test_a_generator_of_the_host_is_an_error(counted):
    with pytest.raises(RuntimeError, match=r"expected a generator on simulated:0 .*test_simulated_device\.py"):
        torch.rand(2, generator=torch.Generator(), device=DEVICE)


def test_inference_mode_has_views_of_tensors_from_outside(counted):
    values = here([1.0, 2.0, 3.0], counted)
    with torch.inference_mode():
        made, given = (values + 1)[1:], values[1:]
    assert (made.tolist(), given.tolist()) == ([3.0, 4.0], [2.0, 3.0])


def test_numpy_does_not_read_the_device(counted):
    with pytest.raises((RuntimeError, TypeError)):
        here([1.0], counted).numpy()


def test_an_operator_in_place_gives_its_argument_back(counted):
    values = here([1.0, 2.0], counted)
    assert values.mul_(2) is values
    assert values.tolist() == [2.0, 4.0]


def test_bytes_are_those_read_and_written(counted):
    values = here(torch.ones(1000), counted)
    _ = values + values
    assert (counted.launches, counted.bytes) == (1, 3 * 4000)
    counted.reset()
    _ = values[here([1, 2, 3], counted)]
    assert counted.bytes == 3 * (8 + 2 * 4)


def test_the_model_takes_the_longer_of_launches_and_traffic(counted):
    values = here(torch.ones(10), counted)
    _ = values + 1
    assert counted.seconds == pytest.approx(5e-6)
    values = here(torch.ones(8_600_000), counted)
    values.add_(1)
    assert counted.seconds == pytest.approx(16e-6)


class Doubled(torch.autograd.Function):
    """Reads a value back in each direction."""

    @staticmethod
    def forward(ctx, values):
        values.sum().item()
        return 2 * values

    @staticmethod
    def backward(ctx, gradient):
        gradient.sum().item()
        return 2 * gradient


def test_a_backward_pass_is_counted(counted):
    values = here([1.0, 2.0], counted).requires_grad_()
    loss = (values * values).sum()
    before = counted.launches
    loss.backward()
    assert counted.launches > before
    assert values.grad.device == DEVICE
    assert values.grad.tolist() == [2.0, 4.0]


def test_an_autograd_function_is_counted_in_both_directions(counted):
    values = here([1.0, 2.0], counted).requires_grad_()
    loss = Doubled.apply(values).sum()
    forward = counted.waits.copy()
    loss.backward()
    assert forward.total() == 1
    assert (counted.waits - forward).total() == 1
    assert all(place.startswith("tests/test_simulated_device.py:") for _, place in counted.waits)
    assert values.grad.tolist() == [2.0, 2.0]


def test_cross_entropy_of_upsampled_logits_takes_seven_launches(counted):
    logits = here(torch.randn(2, 3, 4, 4), counted).requires_grad_()
    target = torch.zeros(2, 8, 8, dtype=torch.long).to(DEVICE)
    counted.reset()
    F.cross_entropy(F.interpolate(logits, (8, 8), mode="bilinear"), target).backward()
    assert counted.launches == 7
    assert not counted.waits


def test_a_module_moves_to_the_device(counted):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(DEVICE)
    network(here(torch.randn(2, 3, 8, 8), counted)).mean().backward()
    assert not counted.waits
    assert network[0].weight.grad.device == DEVICE


def test_a_module_on_the_device_is_converted(counted):
    network = torch.nn.Linear(2, 1).to(DEVICE)
    weights = network.weight.tolist()
    assert network.bfloat16()(here([[1.0, 2.0]], counted).bfloat16()).dtype == torch.bfloat16
    assert network.double().weight.tolist()[0] == pytest.approx(weights[0], rel=0.01)


def test_autocast_changes_nothing(counted):
    values = here(torch.ones(2, 2), counted)
    for enabled in (False, True):
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled):
            assert (values @ values).dtype == torch.float32


def test_nothing_takes_the_device_by_itself():
    assert not (torch.accelerator.is_available() and torch.accelerator.current_accelerator().type == DEVICE.type)


def test_nothing_is_counted_outside():
    with simulated() as counted:
        values = here([1.0, 2.0], counted)
    _ = values + 1
    assert counted.launches == 0
