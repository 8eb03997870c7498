"""Cross-entropy plus CPG: the criterion of training.

The limit of its time is one exponential and a few multiplications and additions a full-resolution logit. Measured at C = 19
and 2 images of 512x1024 (2 cores of an AMD EPYC, torch 2.15): an exponential in the cache takes 0.35 ns a logit, the pass
for cross-entropy alone here 1.1 ns, with CPG 2.0 ns, and ``F.cross_entropy`` 1.3 to 1.8 ns. So it is some five times the
limit away: half of the pass is reading logits from memory and writing their gradient there, and CPG's part are many small
operations that find the boundary and index the entries near it. ``experiments/benchmarks/losses.py`` has the whole table.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cpg_lightning.losses.base import SegmentationCriterion
from cpg_lightning.losses.boundary import NO_CLASS, Boundary, kernel_rows
from cpg_lightning.losses.cpg import checked_target, integer_kernel
from cpg_lightning.losses.enlargement import BilinearEnlargement, Enlargement, NoEnlargement
from cpg_lightning.losses.flat import flat_index, flat_view

STRIP = 2**20  # logits in a strip: enough for an operation to be worth its call, few enough to stay in the cache


class CrossEntropyCPGLoss(SegmentationCriterion):
    r"""Cross-entropy plus the weighted CPG loss, on a network's logits at whatever stride.

    .. math::
        \mathcal{L} = \mathrm{CE}(z, t) + \lambda \, \mathrm{CPG}(z, t)

    with :math:`z` the logits, enlarged bilinearly to the size of the target :math:`t`, and :class:`~cpg_lightning.CPGLoss`
    as CPG. Both parts are means over this call, and 0 where every pixel is ignored. After a forward pass ``terms`` holds
    them, detached and unweighted, as ``{"ce": ..., "cpg": ...}``; with a weight of 0, CPG is neither computed nor listed.

    Args:
        cpg_weight: The weight :math:`\lambda`, 0 or more. 0 is plain cross-entropy.
        kernel_size: Side of CPG's kernel in pixels, odd, 3 to 15.
        ignore_index: Target value that is no class; any integer.
        void_borders: Whether CPG counts boundaries against ignored regions, see :class:`~cpg_lightning.CPGLoss`.
        class_weights: Weight of each class in the cross-entropy, as ``weight`` of ``F.cross_entropy`` (but the mean of
            online hard example mining is by the number of pixels, as in the official code); in the auxiliary output's too.
        label_smoothing: As in ``F.cross_entropy``.
        ohem_threshold: With one, cross-entropy is over hard pixels alone (online hard example mining, as in the official
            HRNet-OCR code): those whose true class is predicted with less than this probability, or than that of the
            pixel at place ``ohem_min_kept`` in their order, whichever is more. CPG's entries are not selected.
        ohem_min_kept: Place in the order of likelihood that the threshold is raised to, in pixels of this call.

    Shape:
        - logits: :math:`(B, C, h, w)`, floating point
        - target: :math:`(B, H, W)`, integer, classes :math:`0..C-1` or ``ignore_index``
        - output: scalar, in float32, or float64 for float64 logits

    Raises:
        ValueError: If the weight is negative or infinite, for a kernel size that is not odd or out of range, and, in the
            forward pass, for shapes, dtypes or (looked at on the CPU only) target values other than above.
        RuntimeError: For a second derivative: the gradient is computed with the value. On Apple's devices kernels above
            9 pixels need float64, which those do not have.

    Source: Shan and Jia, "Convolution-based Probability Gradient Loss for Semantic Segmentation", arXiv 2404.06704.

    Example:
        >>> import torch
        >>> from cpg_lightning import CrossEntropyCPGLoss
        >>> criterion = CrossEntropyCPGLoss(cpg_weight=0.5)
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> target = torch.zeros(1, 32, 32, dtype=torch.long)
        >>> target[..., 16:] = 1
        >>> loss = criterion(logits, target)
        >>> criterion.terms
        {'ce': tensor(0.6931), 'cpg': tensor(4.)}
        >>> loss.backward()
    """

    def __init__(
        self,
        cpg_weight: float = 1.0,
        kernel_size: int = 3,
        ignore_index: int = 255,
        void_borders: bool = True,
        class_weights: Iterable[float] | None = None,
        label_smoothing: float = 0.0,
        ohem_threshold: float | None = None,
        ohem_min_kept: int = 131072,
    ) -> None:
        super().__init__(ignore_index, class_weights)
        integer_kernel(kernel_size)
        if not 0 <= cpg_weight < math.inf:
            raise ValueError(f"expected cpg_weight to be 0 or more and finite, got {cpg_weight}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"expected label_smoothing to be from 0 to 1, got {label_smoothing}")
        if ohem_threshold is not None and not 0 < ohem_threshold <= 1:
            raise ValueError(f"expected ohem_threshold to be a probability above 0, got {ohem_threshold}")
        if ohem_min_kept < 0:
            raise ValueError(f"expected ohem_min_kept to be 0 or more pixels, got {ohem_min_kept}")
        if ohem_threshold is not None and label_smoothing:
            raise ValueError(
                "expected ohem_threshold or label_smoothing, got both: how hard a smoothed pixel is, is not defined"
            )
        self.cpg_weight = cpg_weight
        self.kernel_size = kernel_size
        self.void_borders = void_borders
        self.label_smoothing = label_smoothing
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept

    def forward(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """See :class:`CrossEntropyCPGLoss`; ``align_corners`` as in ``torch.nn.functional.interpolate``."""
        target = checked_target(logits, target, self.ignore_index).contiguous()
        if logits.shape[1] >= NO_CLASS:
            raise ValueError(f"expected fewer than {NO_CLASS} classes, got {logits.shape[1]}")
        with torch.autocast(logits.device.type, enabled=False), _full_precision():
            loss, ce, cpg = _CrossEntropyCPG.apply(logits, target, self, align_corners)
        self.terms = {"ce": ce, "cpg": cpg} if self.cpg_weight else {"ce": ce}
        return loss

    def extra_repr(self) -> str:
        """The constructor's numbers, but for the weights of the classes."""
        names = ("cpg_weight", "kernel_size", "ignore_index", "void_borders", "label_smoothing")
        ohem = () if self.ohem_threshold is None else ("ohem_threshold", "ohem_min_kept")
        return ", ".join(f"{name}={getattr(self, name)}" for name in (*names, *ohem))


@contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products of float32 in float32, whatever ``torch.set_float32_matmul_precision`` says.

    TF32 has 11 bits: enlarged logits would lose a thousandth, and sums of the kernel's integers that are 0 would not be.
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


class _CrossEntropyCPG(torch.autograd.Function):
    r"""Loss, cross-entropy and CPG of logits (B, C, h, w); the gradient of the loss is computed in forward.

    With :math:`p` the softmax of the enlarged logits :math:`z` and :math:`a_c` the weight with which :math:`-\log p_c` of a
    pixel counts (one entry, the true class, unless labels are smoothed), cross-entropy has the gradient
    :math:`p_c \sum_j a_j - a_c` by :math:`z_c`. CPG has one by the probabilities,
    :math:`g = 2 \lambda / |B| \cdot K^T (P - G)`, that is not zero only near boundaries, and through the softmax
    :math:`p_c (g_c - \langle g, p \rangle)`. Together::

        dz_c =  p_c (sum_j a_j - <g, p>)  -  a_c  +  p_c g_c
                dense: a factor a pixel      few     few

    Some rows at a time, so that what is computed stays in the cache. The factor of a row is known when the windows that
    reach it have been looked at, so the gradient follows two radii of the kernel behind::

        target (H, W) -- windows of two labels -- pairs (pixel, class) with G not 0, in integers
                                                               |
        logits (C, h, w) -- rows (rows, C, W) -- exp -- p in the pairs' windows -- P - G -- g
               ^                                  |                                        / \
               |                                  +-- times factor, minus a_c <-- <g, p> -+   +- p_c g_c
               |                                                 |                                  |
               +------------ adjoint of the enlargement ---------+----------------------------------+
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, criterion: CrossEntropyCPGLoss, align_corners: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        work = logits.float() if logits.element_size() < 4 else logits
        gradient = work.new_empty(work.shape) if ctx.needs_input_grad[0] else None
        small, large = (work.shape[2], work.shape[3]), (target.shape[1], target.shape[2])
        enlargement = NoEnlargement() if small == large else BilinearEnlargement(small, large, align_corners, work)
        share = _PixelWeights(work, target, criterion, enlargement)
        boundaries = [
            Boundary(image, criterion.kernel_size, criterion.ignore_index, criterion.void_borders)
            for image in (target if criterion.cpg_weight else ())
        ]
        entries = sum((boundary.entries() for boundary in boundaries), work.new_zeros(())).clamp(min=1)
        ce, squared_error = work.new_zeros(()), work.new_zeros(())
        for b, image in enumerate(work):
            term = _ImageCPG(boundaries[b], criterion, entries, image) if boundaries else None
            one = _ImagePass(image, share, b, term, enlargement, None if gradient is None else gradient[b])
            one.run()
            ce += one.cross_entropy
            squared_error += one.squared_error
        # In full precision: a scale of mixed precision is yet to come.
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        cpg = squared_error / entries
        ctx.mark_non_differentiable(ce, cpg)
        return ce + criterion.cpg_weight * cpg, ce, cpg

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "CrossEntropyCPGLoss has no second derivative; for one, add F.cross_entropy and cpg_loss of the enlarged logits"
            )
        (gradient,) = ctx.saved_tensors
        if scale.device.type != "cpu" or scale != 1:  # on the CPU, looking costs nothing and may save a pass
            gradient = gradient * scale
        return gradient.to(ctx.dtype), None, None, None


class _PixelWeights:
    """With what weight each pixel's negative log probabilities count in the mean over the batch.

    Attributes:
        classes: True class, 0 where ignored, (B, H, W).
        true: Weight of the true class, (B, H, W).
        smooth: Weight of the sum over all classes, each times its class weight; None without label smoothing.
        class_weights: (C)
    """

    def __init__(
        self, logits: Tensor, target: Tensor, criterion: CrossEntropyCPGLoss, enlargement: Enlargement
    ) -> None:
        valid = target != criterion.ignore_index
        self.classes = target.where(valid, 0)
        self.class_weights = criterion.weights_for(logits)
        if criterion.class_weights is None:
            self.true = valid.to(logits.dtype)
        else:
            self.true = self.class_weights[self.classes] * valid
        total = self.true.sum()
        if criterion.ohem_threshold is not None:
            hard = _hard(logits, self.classes, valid, criterion.ohem_threshold, criterion.ohem_min_kept, enlargement)
            self.true *= hard
            total = hard.sum().to(logits.dtype)
        total = total.where(total > 0, math.inf)  # then all weights are 0
        self.smooth = None
        if criterion.label_smoothing:
            self.smooth = criterion.label_smoothing / len(self.class_weights) * valid.to(logits.dtype) / total
        self.true *= (1 - criterion.label_smoothing) / total


class _ImageCPG:
    """What one image (C, h, w) needs for CPG; ``entries`` is their number in the batch."""

    def __init__(self, boundary: Boundary, criterion: CrossEntropyCPGLoss, entries: Tensor, image: Tensor) -> None:
        self.boundary, self.radius = boundary, criterion.kernel_size // 2
        self.kernel = kernel_rows(criterion.kernel_size, image)
        _, self.denominator = integer_kernel(criterion.kernel_size)
        self.weight = criterion.cpg_weight / entries


class _ImagePass:
    """One image (C, h, w) on its way through :class:`_CrossEntropyCPG`, some rows at a time.

    Attributes:
        cross_entropy: This image's part of the mean.
        squared_error: Sum of the squared errors over its boundary.
    """

    def __init__(
        self,
        logits: Tensor,
        share: _PixelWeights,
        b: int,
        term: _ImageCPG | None,
        enlargement: Enlargement,
        gradient: Tensor | None,
    ) -> None:
        self.term = term
        self.logits, self.enlargement, self.gradient = logits, enlargement, gradient
        self.classes, self.true, self.class_weights = share.classes[b], share.true[b], share.class_weights
        self.smooth = None if share.smooth is None else share.smooth[b]
        self.height, self.width = self.classes.shape
        self.factor = self.true.clone() if self.smooth is None else self.true + self.smooth * self.class_weights.sum()
        self.inverse = torch.empty_like(self.factor)  # of the sum of exponentials, (H, W)
        self.cross_entropy, self.squared_error = logits.new_zeros(()), logits.new_zeros(())
        self.waiting: list[tuple[int, tuple[Tensor, Tensor, Tensor, Tensor]]] = []

    def run(self) -> None:
        """Go through all rows."""
        lag = 0 if self.term is None else 2 * self.term.radius
        step = min(max(1, lag, STRIP // (len(self.logits) * self.width)), self.height)
        firsts = range(0, self.height, step)
        lines = [0] * (len(firsts) + 1)
        if self.term is not None:
            lines = self.term.boundary.starts([*(first - self.term.radius for first in firsts), self.height])
        wide_logits = self.enlargement.widen(self.logits)
        wide = None if self.gradient is None else self.enlargement.wide_gradient(self.gradient)
        # Exponentials of the rows from `base` on; once `done`, they are forgotten, and the others move to the front.
        if wide is not None and self.enlargement.in_place:
            room = wide
        else:
            room = self.logits.new_empty(step + lag, len(self.logits), self.width)
        base = done = 0
        for first, (line, next_line) in zip(firsts, pairwise(lines), strict=True):
            last = min(first + step, self.height)
            strip = self.enlargement.strip(wide_logits, slice(first, last))
            total, shift = _exponential(strip, room[first - base : last - base])
            torch.reciprocal(total, out=self.inverse[first:last])
            self._sum_cross_entropy(strip, total, shift, slice(first, last))
            if self.term is not None and line < next_line:
                self._sum_errors(self.term, slice(line, next_line), room, base, last)
            ready = self.height if last == self.height else max(done, last - lag)
            if wide is not None and ready > done:
                self._give(wide, room[done - base : ready - base], slice(done, ready))
            done = ready
            if room is not wide:
                room[: last - done] = room[done - base : last - base].clone()
                base = done
        if wide is not None and self.gradient is not None:
            self.enlargement.narrow(wide, self.gradient)

    def _sum_cross_entropy(self, strip: Tensor, total: Tensor, shift: Tensor | float, rows: slice) -> None:
        """Of some rows' logits (rows, C, W)."""
        normaliser = total.log()
        true = strip.gather(1, self.classes[rows][:, None])[:, 0] - shift
        true_share = self.true[rows]
        # Ignored pixels may have an infinite loss, which 0 times would be NaN.
        self.cross_entropy += true_share.flatten().dot((normaliser - true).where(true_share != 0, 0).flatten())
        if self.smooth is not None:
            of_all = (normaliser + shift) * self.class_weights.sum()
            of_all -= torch.einsum("c,rcw->rw", self.class_weights, strip)
            self.cross_entropy += (self.smooth[rows] * of_all).where(self.smooth[rows] != 0, 0).sum()

    def _sum_errors(self, term: _ImageCPG, lines: slice, room: Tensor, base: int, last: int) -> None:
        """Of some lines, whose windows lie in the room, rows ``base`` to ``last``; and what they add to the gradient."""
        boundary, radius, size = term.boundary, term.radius, 2 * term.radius + 1
        offset = torch.arange(-radius, radius + 1, device=room.device)[:, None]
        rows = (boundary.rows[lines] + offset).clamp(0, self.height - 1)  # (k, L)
        classes, columns = boundary.classes[lines], boundary.columns[lines]
        pixel = (rows * self.width + columns).view(-1)
        probability = flat_view(room).index_select(0, flat_index(room, rows - base, classes, columns).view(-1))
        probability = (probability * self.inverse.view(-1).index_select(0, pixel)).view(rows.shape)
        windows = probability.unfold(1, size, 1).transpose(1, 2)  # (k, k, L - 2 * radius)
        predicted = term.kernel @ windows.reshape(size * size, -1)  # (2, L - 2 * radius)
        true = boundary.gradient[:, lines.start + radius : lines.stop - radius].to(predicted.dtype)
        error = (predicted - true).where(true != 0, 0) / term.denominator
        self.squared_error += error.square().sum()
        if self.gradient is None:
            return
        by_window = (term.kernel.T @ (error * (2 * term.weight / term.denominator))).view_as(windows)
        value = torch.zeros_like(probability)  # first g, then p_c g_c
        for shift, by_neighbour in enumerate(by_window.unbind(1)):
            value[:, shift : shift + by_neighbour.shape[1]] += by_neighbour
        value *= probability
        self.factor.view(-1).index_add_(0, pixel, value.view(-1), alpha=-1)
        self.waiting.append((last, (rows, classes, columns, value)))

    def _give(self, wide: Tensor, dense: Tensor, rows: slice) -> None:
        """From the exponentials of some rows (rows, C, W) to their gradient, and bring it down to the wide one."""
        dense *= (self.factor[rows] * self.inverse[rows])[:, None]
        down, through, across = dense.stride()
        y, x = (torch.arange(n, device=dense.device) for n in (len(dense), self.width))
        true = torch.add(y[:, None] * down + x * across, self.classes[rows], alpha=through)
        # Three times as fast as scatter_add_ on the CPU, but for one dimension: that of the memory.
        flat_view(dense).index_add_(0, true.view(-1), self.true[rows].flatten().neg())
        if self.smooth is not None:
            dense.addcmul_(self.class_weights[:, None], self.smooth[rows][:, None], value=-1)
        self.enlargement.give(wide, dense, rows)
        while self.waiting and self.waiting[0][0] <= rows.stop:
            self.enlargement.add(wide, *self.waiting.pop(0)[1])


def _exponential(strip: Tensor, out: Tensor) -> tuple[Tensor, Tensor | float]:
    """Write exponentials of logits (rows, C, W) less a shift; their sum over the classes (rows, W), and the shift."""
    if strip.device.type == "cpu":
        # Logits as networks give them need no shift, and finding it is a second pass over them. Whether they do can be
        # seen from the sums: but elsewhere, looking would wait for the device.
        total = torch.exp(strip, out=out).sum(dim=1)
        if total.numel() and total.min() > math.exp(-40) and total.max() < math.exp(40):
            return total, 0.0
    shift = strip.amax(dim=1)
    return torch.sub(strip, shift[:, None], out=out).exp_().sum(dim=1), shift


def _hard(
    logits: Tensor, classes: Tensor, valid: Tensor, threshold: float, min_kept: int, enlargement: Enlargement
) -> Tensor:
    """Which pixels online hard example mining keeps, (B, H, W), by the probability of their true class."""
    likelihood = logits.new_empty(classes.shape)
    height, width = classes.shape[1:]
    step = max(1, STRIP // (logits.shape[1] * width))
    for b, image in enumerate(logits):
        wide = enlargement.widen(image)
        for rows in (slice(first, min(height, first + step)) for first in range(0, height, step)):
            strip = enlargement.strip(wide, rows)
            true = strip.gather(1, classes[b, rows][:, None])[:, 0]
            likelihood[b, rows] = (true - strip.logsumexp(dim=1)).exp()
    ordered = likelihood.where(valid, math.inf).flatten().sort().values
    last = (valid.sum() - 1).clamp(min=0, max=min_kept)
    bound = ordered.gather(0, last[None]).clamp(min=threshold) if len(ordered) else threshold
    return (likelihood < bound) & valid
