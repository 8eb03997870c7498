"""Cross-entropy plus CPG as a differentiable function of logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .rows import Options, Rows


def fused_cross_entropy_cpg(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, options: Options, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, cross-entropy and CPG, whatever autocast and the precision of matrix products are set to.

    Args:
        logits: Floating point, (B, C, h, w).
        target: Classes or ``ignore_index``, int64, (B, H, W).
        class_weights: Weight of each class in float32 at least, (C), or None.
        options: The loss's options.
        align_corners: How the logits are upsampled.

    Returns:
        Three scalars: the loss, and detached cross-entropy and CPG.
    """
    with torch.autocast(logits.device.type, enabled=False), _full_precision():
        return _FusedCrossEntropyCPG.apply(logits, target.contiguous(), class_weights, options, align_corners)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products of float32 in float32, whatever ``torch.set_float32_matmul_precision`` says.

    TF32 has 11 bits: upsampled logits would lose a thousandth, and sums of the kernel's integers that are 0 would not be.
    """
    backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = [(backend, backend.fp32_precision) for backend in backends]
    reduced = [(backend, precision) for backend, precision in before if precision not in ("none", "ieee")]
    try:
        for backend, _ in reduced:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in reduced:
            backend.fp32_precision = precision


class _FusedCrossEntropyCPG(torch.autograd.Function):
    r"""Loss, cross-entropy and CPG of logits (B, C, h, w); the gradient of the loss is computed in forward.

    With :math:`p` the softmax of the upsampled logits :math:`z` and :math:`a_c` the weight with which :math:`-\log p_c` of a
    pixel counts (one entry, the true class, unless labels are smoothed), cross-entropy has the gradient
    :math:`p_c \sum_j a_j - a_c` by :math:`z_c`. CPG has one by the probabilities,
    :math:`g = 2 \lambda / |B| \cdot K^T (P - G)`, that is not zero only near boundaries, and through the softmax
    :math:`p_c (g_c - \langle g, p \rangle)`. Together::

        dz_c =  p_c (sum_j a_j - <g, p>)  -  a_c  +  p_c g_c
                dense: a factor a pixel      few     few

    Some rows at a time. On a CPU those are a part of one image, so that what is computed stays in the cache. On an
    accelerator they are many images, as each operation costs a launch. The factor of a row is known when the windows that
    reach it have been looked at, so within an image the gradient follows a halo of two radii of the kernel behind::

        target (H, W) -- windows of two labels -- pairs (pixel, class) with G not 0, in integers
                                                               |
        logits (C, h, w) -- rows (rows, C, W) -- exp -- p in the pairs' windows -- P - G -- g
               ^                                  |                                        / \
               |                                  +-- times factor, minus a_c <-- <g, p> -+   +- p_c g_c
               |                                                 |                                  |
               +------------ adjoint of the upsampling ----------+----------------------------------+
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, class_weights: Tensor | None, options: Options, align_corners: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        work = logits.float() if logits.element_size() < 4 else logits
        rows = Rows(work, target, class_weights, options, align_corners, ctx.needs_input_grad[0])
        rows.run()
        # In full precision: a scale of mixed precision is yet to come.
        ctx.save_for_backward(rows.gradient)
        ctx.dtype = logits.dtype
        ce, cpg = rows.cross_entropy, work.new_zeros(()) if rows.errors is None else rows.errors.mean()
        ctx.mark_non_differentiable(ce, cpg)
        return ce + options.cpg_weight * cpg, ce, cpg

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "CrossEntropyCPGLoss has no second derivative; for one, add F.cross_entropy and cpg_loss of the logits "
                "upsampled with F.interpolate"
            )
        (gradient,) = ctx.saved_tensors
        if scale.device.type != "cpu" or scale != 1:  # on the CPU, looking costs nothing and may save a pass
            gradient = gradient * scale
        return gradient.to(ctx.dtype), None, None, None, None
