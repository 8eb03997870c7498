"""Cross-entropy plus CPG as a differentiable function of logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import gpu
from .rows import Options, cross_entropy_cpg


def fused_cross_entropy_cpg(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, options: Options, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, cross-entropy and CPG, independent of autocast and of the precision set for matrix products.

    Args:
        logits: Floating point, (B, C, h, w).
        target: Classes or ``ignore_index``, int64, (B, H, W).
        class_weights: Weight of each class in float32 or float64, (C), or None.
        options: The options of the loss.
        align_corners: As in ``torch.nn.functional.interpolate``.

    Returns:
        Three scalars: the loss, the cross-entropy and CPG. The last two are detached.
    """
    with torch.autocast(logits.device.type, enabled=False), _full_precision():
        return _FusedCrossEntropyCPG.apply(logits, target.contiguous(), class_weights, options, align_corners)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Compute float32 matrix products in float32, ignoring ``torch.set_float32_matmul_precision``.

    TF32 has 11 bits: upsampled logits would have a relative error of a thousandth, and sums of the kernel's integers
    that are exactly 0 would not stay 0.
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
    r"""Loss, cross-entropy and CPG of logits (B, C, h, w); the gradient of the loss is computed in the forward pass.

    Let :math:`p` be the softmax of the upsampled logits :math:`z`, and :math:`a_c` the weight of :math:`-\log p_c` in
    the cross-entropy of a pixel. Without label smoothing, only the true class has a weight. The gradient of
    cross-entropy with respect to :math:`z_c` is :math:`p_c \sum_j a_j - a_c`. The gradient of CPG with respect to the
    probabilities is :math:`g = 2 \lambda / |B| \cdot K^T (P - G)`, which is nonzero only near boundaries. Through the
    softmax it becomes :math:`p_c (g_c - \langle g, p \rangle)`. The sum is::

        dz_c =  p_c (sum_j a_j - <g, p>)  -  a_c  +  p_c g_c
                dense: one factor per pixel  few     few

    Rows are processed in chunks. On a CPU, a chunk is a part of one image, so that intermediate values stay in the
    cache. On an accelerator, a chunk is many images, because each operation costs a launch. The factor of a row is
    known once all windows that contain the row are processed. Within an image, the gradient therefore lags two radii of
    the kernel behind. On an NVIDIA GPU, :mod:`.kernels` compute the same in three steps, from left to right::

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
        compute = gpu.cross_entropy_cpg if gpu.has_kernels(logits, options) else cross_entropy_cpg
        gradient, ce, cpg = compute(logits, target, class_weights, options, align_corners, ctx.needs_input_grad[0])
        # Kept in full precision, because the loss scale of mixed precision is applied later.
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
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
        if scale.device.type != "cpu" or scale != 1:  # on the CPU, the check is free and may save a pass
            gradient = gradient * scale
        return gradient.to(ctx.dtype), None, None, None, None
