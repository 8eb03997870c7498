"""Cross-entropy plus CPG on an NVIDIA GPU: three kernels in place of the pass over rows."""

import math
import warnings
from contextlib import nullcontext
from functools import cache

import torch
from torch import Tensor

from ..cpg import integer_kernel
from .pixel_weights import PixelWeights, easy_or_ignored
from .rows import Options

# Sizes of a program: pixels of ``normalise``; logits and classes of ``collect``. The fastest of those tried on an H200.
PIXELS, CELLS, CLASSES = 128, 128, 8
LARGEST_KERNEL = 7  # of CPG: the tiles of ``compare`` overlap by twice its size


def has_kernels(logits: Tensor, options: Options) -> bool:
    """Whether the kernels compute this loss.

    They do on an NVIDIA GPU where Triton works. They do not for float64, for a given ``strip_logits``, for kernels of CPG
    above 7 pixels, for images of 2^31 logits, whose indices have more than 32 bits, and with
    ``torch.use_deterministic_algorithms(True)``, because their additions have no fixed order.
    """
    last_index = sum((size - 1) * stride for size, stride in zip(logits.shape[1:], logits.stride()[1:], strict=True))
    return (
        logits.is_cuda
        and logits.dtype != torch.float64
        and last_index < 2**31
        and options.strip_logits is None
        and options.kernel_size <= LARGEST_KERNEL
        and not torch.are_deterministic_algorithms_enabled()
        and len(logits) > 0
        and can_compile(logits.device)
    )


@cache
def can_compile(device: torch.device) -> bool:
    """Whether Triton compiles and runs a kernel on a device. A warning says why it does not."""
    if torch.version.cuda is None:
        return False
    logits, target = torch.zeros(1, 2, 1, 1, device=device), torch.zeros(1, 2, 2, dtype=torch.int64, device=device)
    try:
        cross_entropy_cpg(logits, target, None, Options(255, cpg_weight=1.0), False, True)
    # Whatever is missing, a C compiler or the headers of Python or a recent GPU: the loss does not need Triton.
    except Exception as error:  # noqa: BLE001
        warnings.warn(
            f"Triton does not work on {torch.cuda.get_device_name(device)} ({type(error).__name__}: {error}); "
            "CrossEntropyCPGLoss uses PyTorch's operators instead, which takes longer",
            stacklevel=2,
        )
        return False
    return True


def cross_entropy_cpg(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None,
    options: Options,
    align_corners: bool,
    with_gradient: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradient, cross-entropy and CPG. No step waits for the device.

    Args:
        logits: (B, C, h, w)
        target: Classes or ``ignore_index``, int64, (B, H, W).
        class_weights: Weight of each class in float32, (C), or None.
        options: The options of the loss.
        align_corners: As in ``torch.nn.functional.interpolate``.
        with_gradient: Whether the gradient is needed.

    Returns:
        The gradient of the loss by the logits in float32, (B, C, h, w), or None; the mean cross-entropy; CPG.
    """
    from . import kernels  # only here: it imports Triton

    (images, num_classes, *small), large = logits.shape, target.shape[1:]
    sizes = num_classes, *small, *large
    upsampling = align_corners, tuple(small) == tuple(large)
    ignored = target == options.ignore_index
    classes = target.masked_fill(ignored, 0)
    smooth = bool(options.label_smoothing)
    normaliser = logits.new_empty(target.shape, dtype=torch.float32)
    of_true, of_all = torch.empty_like(normaliser), torch.empty_like(normaliser) if smooth else normaliser
    every_weight = normaliser.new_ones(num_classes) if class_weights is None else class_weights
    grid = -(-large[0] * large[1] // PIXELS), images
    with torch.cuda.device(logits.device) if logits.is_cuda else nullcontext():
        kernels.normalise[grid](
            *(logits, *logits.stride(), classes, every_weight, normaliser, of_true, of_all, *sizes),
            *(smooth, *upsampling, PIXELS),
        )
        left_out, by_number = ignored, options.ohem_threshold is not None
        if options.ohem_threshold is not None:
            left_out = easy_or_ignored(of_true.exp(), ignored, options.ohem_threshold, options.ohem_min_kept * images)
        weights = PixelWeights(
            num_classes, torch.float32, classes, left_out, class_weights, options.label_smoothing, by_number
        )
        ce = -(weights.true * of_true.masked_fill(left_out, 0)).sum()
        if weights.smooth is not None:
            ce -= (weights.smooth * of_all.masked_fill(left_out, 0)).sum()
        cpg, scale, factor = torch.zeros_like(ce), torch.ones_like(ce), weights.of_probabilities()
        gradient = normaliser.new_zeros(logits.shape) if with_gradient else normaliser
        if options.cpg_weight:
            side, warps = (16, 4) if options.kernel_size == 3 else (32, 16)  # of a tile
            radius = options.kernel_size // 2
            tiles = math.prod(-(-(size + 2 * radius) // (side - 4 * radius)) for size in large), images
            squares, entries = normaliser.new_empty(tiles), target.new_empty(tiles, dtype=torch.int32)
            inner = torch.zeros_like(factor) if with_gradient else factor
            kernels.compare[tiles](
                *(logits, *logits.stride(), target, normaliser, squares, entries, gradient, inner),
                *(options.ignore_index, *sizes, options.kernel_size, integer_kernel(options.kernel_size)[1]),
                *(options.void_borders, with_gradient, *upsampling, side),
                num_warps=warps,
            )
            number = entries.sum().clamp_(min=1)
            cpg, scale = squares.sum() / number, 2 * options.cpg_weight / number
            factor = torch.addcmul(factor, inner, scale, value=-1)
        if not with_gradient:
            return None, ce, cpg
        smooth_weight = factor if weights.smooth is None else weights.smooth
        cells = -(-small[0] * small[1] // CELLS), -(-num_classes // CLASSES), images
        kernels.collect[cells](
            *(logits, *logits.stride(), classes, every_weight, normaliser, factor, weights.true),
            *(smooth_weight, scale, gradient, *sizes),
            *(smooth, bool(options.cpg_weight), *upsampling, CELLS, CLASSES),
        )
        return gradient, ce, cpg
