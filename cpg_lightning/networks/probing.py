"""What a network takes and uses, found by trial."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def refusal(network: nn.Module, size: tuple[int, int], images: int = 1, training: bool = False) -> str | None:
    """Why a network takes no image of this size (height and width in pixels), or not as many images; None if it does."""
    try:
        with _trial(network, training), torch.no_grad():
            network(_black(network, images, size))
    except ValueError as error:
        return str(error)
    return None


def unused_parameters(network: nn.Module, size: tuple[int, int]) -> list[str]:
    """Names of the parameters that reach no logits in training nor in evaluation, although they are to be trained.

    Args:
        network: Gives logits by name, as :class:`~cpg_lightning.networks.SegmentationNetwork` does. It is left as it was:
            its modes, its buffers and the random generators.
        size: Height and width of an image that it takes, in pixels.

    Raises:
        ValueError: If it takes no such image, or its logits have no gradient.
    """
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    unused = set(trained)
    for training in (False, True):  # some auxiliary heads are used in training alone
        if not unused:
            break
        with _trial(network, training), torch.enable_grad():
            # BatchNorm takes no single value for each channel in training.
            logits: dict[str, Tensor] = network(_black(network, 2 if training else 1, size))
            total = torch.stack([tensor.float().sum() for tensor in logits.values()]).sum()
            gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
        unused -= {name for name, gradient in zip(trained, gradients, strict=True) if gradient is not None}
    return [name for name in trained if name in unused]


@contextmanager
def _trial(network: nn.Module, training: bool) -> Iterator[None]:
    """Runs a network in one mode, and restores its modes and buffers and the random generators.

    Raises:
        ValueError: For whatever is raised within, with the first line of its message.
    """
    modes = {module: module.training for module in network.modules()}
    buffers = {name: buffer.detach().clone() for name, buffer in network.named_buffers() if not is_lazy(buffer)}
    devices = {parameter.device for parameter in network.parameters() if parameter.is_cuda}
    try:
        with (
            torch.random.fork_rng(devices),
            torch.compiler.set_stance("force_eager"),  # compiling takes longer than the trial
            warnings.catch_warnings(action="ignore"),
        ):
            network.train(training)
            yield
    except Exception as error:  # networks of others raise anything
        raise ValueError((str(error) or type(error).__name__).partition("\n")[0]) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])


def _black(network: nn.Module, images: int, size: tuple[int, int]) -> Tensor:
    """Images of the mean colour, where and of the type that the network computes with."""
    parameters = list(network.parameters())
    if any(map(is_lazy, parameters)):
        raise ValueError("its layers are lazy: they get their shapes from the first batch")
    like = next((p for p in parameters if p.is_floating_point()), torch.empty(0))
    return torch.zeros(images, 3, *size, device=like.device, dtype=like.dtype)
