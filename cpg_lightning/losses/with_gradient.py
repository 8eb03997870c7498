"""Losses on upsampled logits whose gradient is computed in the forward pass."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Activation = Callable[[Tensor], Tensor]
ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


def upsampled(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Logits (B, C, h, w) in float32 or float64, upsampled bilinearly to a size (H, W) if they have another size."""
    logits = _at_least_float32(logits)
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)


# Not compiled: sorts and distance transforms would break the graph and would not run faster.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def loss_with_gradient(
    logits: Tensor, size: tuple[int, int], align_corners: bool, activation: Activation, loss: ValueAndGradient
) -> Tensor:
    """A loss on activated logits at target size, computed outside autocast.

    The gradient with respect to the logits is computed in the forward pass. Autograd therefore saves no tensor at
    target size, and at most three tensors of shape (B, C, H, W) exist at a time: the activations and two gradients.

    Args:
        logits: Floating point, (B, C, h, w).
        size: Height and width of the target.
        align_corners: How the logits are upsampled.
        activation: A differentiable function of the upsampled logits, such as the softmax.
        loss: A function that maps activations (B, C, H, W) to its value, a scalar, and its gradient.

    Returns:
        The loss, a scalar in float32, or float64 for float64 logits.

    Raises:
        RuntimeError: For a second derivative.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return _LossWithGradient.apply(logits, size, align_corners, activation, loss)


class _LossWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        size: tuple[int, int],
        align_corners: bool,
        activation: Activation,
        loss: ValueAndGradient,
    ) -> Tensor:
        # In half precision, a gradient could underflow before it is scaled.
        leaf = _at_least_float32(logits.detach()).requires_grad_(ctx.needs_input_grad[0])
        with torch.enable_grad():
            activations = activation(upsampled(leaf, size, align_corners))
        value, gradient = loss(activations.detach())
        if ctx.needs_input_grad[0]:
            (by_logits,) = torch.autograd.grad(activations, leaf, gradient)
            ctx.save_for_backward(by_logits)
            ctx.dtype = logits.dtype
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (by_logits,) = ctx.saved_tensors
        return (by_logits * scale).to(ctx.dtype), None, None, None, None


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.element_size() < 4 else logits
