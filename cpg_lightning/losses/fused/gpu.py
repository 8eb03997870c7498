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
    launch = _Launches(logits, target, options, align_corners)
    ignored = target == options.ignore_index
    classes = target.masked_fill(ignored, 0)
    with torch.cuda.device(logits.device) if logits.is_cuda else nullcontext():
        normaliser, of_true, of_all = launch.normalise(classes, class_weights)
        left_out, by_number = ignored, options.ohem_threshold is not None
        if options.ohem_threshold is not None:
            kept = options.ohem_min_kept * len(target)  # of the whole call
            left_out = easy_or_ignored(of_true.exp(), ignored, options.ohem_threshold, kept)
        weights = PixelWeights(
            logits.shape[1], torch.float32, classes, left_out, class_weights, options.label_smoothing, by_number
        )
        ce = -(weights.true * of_true.masked_fill(left_out, 0)).sum()
        if weights.smooth is not None:
            ce -= (weights.smooth * of_all.masked_fill(left_out, 0)).sum()
        factor = weights.of_probabilities()
        gradient = normaliser.new_zeros(logits.shape) if with_gradient else None
        if options.cpg_weight:
            squares, entries, inner = launch.compare(normaliser, gradient)
            cpg, scale = squares / entries, 2 * options.cpg_weight / entries
            if inner is not None:
                factor = torch.addcmul(factor, inner, scale, value=-1)
        else:
            cpg = scale = torch.zeros_like(ce)
        if gradient is not None:
            launch.collect(classes, normaliser, factor, weights, scale, gradient)
    return gradient, ce, cpg


class _Launches:
    """The kernels for one call, with the arguments that they share."""

    def __init__(self, logits: Tensor, target: Tensor, options: Options, align_corners: bool) -> None:
        from . import kernels  # only here: it imports Triton

        self.kernels, self.target, self.options = kernels, target, options
        (self.images, self.num_classes, *self.small), self.large = logits.shape, target.shape[1:]
        self.logits = logits, *logits.stride()
        self.sizes = self.num_classes, *self.small, *self.large
        self.upsampling = align_corners, tuple(self.small) == tuple(self.large)

    def normalise(self, classes: Tensor, class_weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The normaliser of each pixel, and the log probability of its true class and of all classes."""
        smooth = bool(self.options.label_smoothing)
        normaliser = torch.empty(classes.shape, dtype=torch.float32, device=classes.device)
        of_true, of_all = torch.empty_like(normaliser), torch.empty_like(normaliser) if smooth else normaliser
        grid = -(-self.large[0] * self.large[1] // PIXELS), self.images
        every_weight = normaliser.new_ones(self.num_classes) if class_weights is None else class_weights
        self.kernels.normalise[grid](
            *(*self.logits, classes, every_weight, normaliser, of_true, of_all, *self.sizes),
            *(smooth, *self.upsampling, PIXELS),
        )
        return normaliser, of_true, of_all

    def compare(self, normaliser: Tensor, gradient: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The sum of the squared errors of CPG, their number, at least 1, and the inner products of each pixel."""
        options, size = self.options, self.options.kernel_size
        side, warps = (16, 4) if size == 3 else (32, 16)  # of a tile
        margin = size // 2
        tiles = math.prod(-(-(length + 2 * margin) // (side - 4 * margin)) for length in self.large), self.images
        squares = normaliser.new_empty(tiles)
        entries = normaliser.new_empty(tiles, dtype=torch.int32)
        inner = None if gradient is None else torch.zeros_like(normaliser)
        outputs = [normaliser if each is None else each for each in (gradient, inner)]  # without, nothing is written
        self.kernels.compare[tiles](
            *(*self.logits, self.target, normaliser, squares, entries, *outputs, options.ignore_index, *self.sizes),
            *(size, integer_kernel(size)[1], options.void_borders, gradient is not None, *self.upsampling, side),
            num_warps=warps,
        )
        return squares.sum(), entries.sum().clamp_(min=1), inner

    def collect(
        self,
        classes: Tensor,
        normaliser: Tensor,
        factor: Tensor,
        weights: PixelWeights,
        scale: Tensor,
        gradient: Tensor,
    ) -> None:
        """Complete the gradient."""
        smooth = weights.smooth is not None
        smooth_weight = normaliser if weights.smooth is None else weights.smooth
        cells = -(-self.small[0] * self.small[1] // CELLS), -(-self.num_classes // CLASSES), self.images
        self.kernels.collect[cells](
            *(*self.logits, classes, weights.class_weights, normaliser, factor),
            *(weights.true, smooth_weight, scale, gradient),
            *(*self.sizes, smooth, bool(self.options.cpg_weight), *self.upsampling, CELLS, CLASSES),
        )
