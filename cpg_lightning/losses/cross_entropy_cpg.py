"""Cross-entropy plus CPG: the criterion of training."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cpg_lightning.losses.base import SegmentationCriterion, weights_for
from cpg_lightning.losses.cpg import checked_target, integer_kernel
from cpg_lightning.losses.enlargement import Enlargement

STRIP = 2**19  # logits in a strip: enough for an operation to be worth its call, few enough to stay in the cache
NO_CLASS = torch.iinfo(torch.int16).max


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
        class_weights: Weight of each class in the cross-entropy, as ``weight`` of ``F.cross_entropy``; in the auxiliary
            output's too.
        label_smoothing: As in ``F.cross_entropy``.
        ohem_threshold: With one, cross-entropy is over hard pixels alone (online hard example mining, as in the official
            HRNet-OCR code): those whose true class is predicted with less than this probability, or than that of the
            pixel at place ``ohem_min_kept`` in their order, whichever is more. CPG's entries are not selected.
        ohem_min_kept: In pixels of this call.

    Shape:
        - logits: :math:`(B, C, h, w)`, floating point
        - target: :math:`(B, H, W)`, integer, classes :math:`0..C-1` or ``ignore_index``
        - output: scalar, in float32, or float64 for float64 logits

    Raises:
        ValueError: If the weight is negative or infinite, for a kernel size that is not odd or out of range, and, in the forward
            pass, for shapes, dtypes or target values other than above.

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
        class_weights: Sequence[float] | None = None,
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
        target = checked_target(logits, target, self.ignore_index)
        self.check_class_weights(logits)
        with torch.autocast(logits.device.type, enabled=False):  # it would make the matrix products half precision
            loss, ce, cpg = _CrossEntropyCPG.apply(logits, target, self, align_corners)
        self.terms = {"ce": ce, "cpg": cpg} if self.cpg_weight else {"ce": ce}
        return loss

    def extra_repr(self) -> str:
        """The constructor's numbers."""
        names = ("cpg_weight", "kernel_size", "ignore_index", "void_borders", "label_smoothing", "ohem_threshold")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class _CrossEntropyCPG(torch.autograd.Function):
    r"""Loss, cross-entropy and CPG of logits (B, C, h, w); the gradient of the loss is computed in forward.

    With :math:`p` the softmax of the enlarged logits :math:`z` and :math:`a_c` the weight with which :math:`-\log p_c` of a
    pixel counts (one entry, the true class, unless labels are smoothed), cross-entropy adds
    :math:`\partial/\partial z_c = p_c \sum_j a_j - a_c`: the softmax times one number a pixel, less a sparse rest. CPG's
    gradient :math:`g` by the probabilities is not zero only near boundaries, :math:`g = 2 \lambda / |B| \cdot K^T (P - G)`,
    and adds :math:`p_c (g_c - \langle g, p \rangle)` there. Enlargement is linear, so its adjoint brings both down::

        logits (C, h, w) --- strip by strip, enlarged (C, rows, W) --- softmax --- times weight --- adjoint ---+
                         \                                                                                     + gradient
                          +- pixels near a boundary, enlarged (M, C) -- softmax -- P - G -- g --- adjoint -----+
        target (H, W) --- windows of two labels --- pairs (pixel, class) with G not 0, in integers --^
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, criterion: CrossEntropyCPGLoss, align_corners: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        work = logits.float() if logits.element_size() < 4 else logits
        small, large = (work.shape[2], work.shape[3]), (target.shape[1], target.shape[2])
        enlargement = Enlargement(small, large, align_corners, work)
        gradient = enlargement.new_gradient(work) if ctx.needs_input_grad[0] else None
        gradients = [None] * len(work) if gradient is None else list(gradient)
        ce = _cross_entropy(work, target, criterion, enlargement, gradients)
        cpg = _cpg(work, target, criterion, enlargement, gradients) if criterion.cpg_weight else work.new_zeros(())
        ctx.gradient = None if gradient is None else gradient.to(logits.dtype)
        ctx.mark_non_differentiable(ce, cpg)
        return ce + criterion.cpg_weight * cpg, ce, cpg

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "CrossEntropyCPGLoss has no second derivative; for one, add F.cross_entropy and cpg_loss of the enlarged logits"
            )
        return ctx.gradient * scale.to(ctx.gradient.dtype), None, None, None


def _cross_entropy(
    logits: Tensor,
    target: Tensor,
    criterion: CrossEntropyCPGLoss,
    enlargement: Enlargement,
    gradients: Sequence[Tensor | None],
) -> Tensor:
    """The cross-entropy of a batch; its gradient is given to each image's of ``gradients``."""
    valid = target != criterion.ignore_index
    classes = target.where(valid, 0)
    weights = weights_for(logits, criterion.class_weights)
    weight = weights[classes] * valid  # of each pixel, (B, H, W)
    total = weight.sum()
    if criterion.ohem_threshold is not None:
        hard = _hard(logits, classes, valid, criterion.ohem_threshold, criterion.ohem_min_kept, enlargement)
        weight, total = weight * hard, hard.sum().to(weight.dtype)
    total = total.where(total > 0, 1)
    smoothing = criterion.label_smoothing
    true_share = (1 - smoothing) * weight / total
    smooth_share = smoothing / len(weights) * valid.to(logits.dtype) / total if smoothing else None
    loss = logits.new_zeros(())
    for b, gradient in enumerate(gradients):
        for rows, strip, true, normaliser, probability in _strips(logits[b], classes[b], enlargement):
            share = true_share[b, rows].flatten()
            loss += ((normaliser - strip.gather(0, true)[0]) * share).sum()
            if smooth_share is not None:
                smooth = smooth_share[b, rows].flatten()
                loss += ((normaliser * weights.sum() - weights @ strip) * smooth).sum()
            if gradient is None:
                continue
            if smooth_share is None:
                probability *= share
            else:
                probability *= share + smooth * weights.sum()
                probability.addr_(weights, smooth, alpha=-1)
            place = true[0] * true.shape[1] + torch.arange(true.shape[1], device=true.device)
            probability.view(-1).index_add_(0, place, -share)  # three times as fast as scatter_add_ on the CPU
            enlargement.give_strip(gradient, probability, rows)
    return loss


def _strips(
    logits: Tensor, classes: Tensor, enlargement: Enlargement
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
    """One image in strips: the rows, then for their pixels logits (C, n), class (1, n), normaliser (n), softmax (C, n)."""
    height, width = classes.shape
    # Enlarging a strip costs two more calls and rows at its seam: it pays to have fewer strips.
    step = max(1, (STRIP if enlargement.identity else 4 * STRIP) // (len(logits) * width))
    for first in range(0, height, step):
        rows = slice(first, min(height, first + step))
        strip = enlargement.strip(logits, rows)
        probability = strip.softmax(dim=0)
        # The log of the sum of exponentials by way of the likeliest class, which no rounding makes 0.
        normaliser = strip.amax(dim=0) - probability.amax(dim=0).log()
        yield rows, strip, classes[rows].reshape(1, -1), normaliser, probability


def _hard(
    logits: Tensor, classes: Tensor, valid: Tensor, threshold: float, min_kept: int, enlargement: Enlargement
) -> Tensor:
    """Which pixels online hard example mining keeps, (B, H, W), by the probability of their true class."""
    likelihood = logits.new_empty(classes.shape)
    for b, image in enumerate(logits):
        for rows, strip, true, normaliser, _ in _strips(image, classes[b], enlargement):
            likelihood[b, rows] = (strip.gather(0, true)[0] - normaliser).exp().view(-1, classes.shape[2])
    ordered = likelihood.where(valid, math.inf).flatten().sort().values
    last = (valid.sum() - 1).clamp(min=0, max=min_kept)
    bound = ordered[last].clamp(min=threshold) if len(ordered) else threshold
    return (likelihood < bound) & valid


def _cpg(
    logits: Tensor,
    target: Tensor,
    criterion: CrossEntropyCPGLoss,
    enlargement: Enlargement,
    gradients: Sequence[Tensor | None],
) -> Tensor:
    """The CPG loss of a batch; its weighted gradient is added to each image's of ``gradients``."""
    boundaries = [_Boundary(image, criterion) for image in target]
    entries = sum((boundary.entries() for boundary in boundaries), logits.new_zeros(())).clamp(min=1)
    errors = [
        _squared_error(image, boundary, criterion.kernel_size, criterion.cpg_weight / entries, enlargement, gradient)
        for image, boundary, gradient in zip(logits, boundaries, gradients, strict=True)
    ]
    return sum(errors, logits.new_zeros(())) / entries


class _Boundary:
    """The boundary of one image's target (H, W), sparse: pairs of a pixel and a class in its window with G not zero."""

    def __init__(self, target: Tensor, criterion: CrossEntropyCPGLoss) -> None:
        height, width = target.shape
        radius = criterion.kernel_size // 2
        valid = target != criterion.ignore_index
        candidate = _holds_two_labels(target.to(torch.int16), radius) & valid
        if not criterion.void_borders:
            candidate &= ~_reach(~valid, radius)
        y, x = candidate.nonzero(as_tuple=True)
        offset = torch.arange(-radius, radius + 1, device=target.device)
        rows = (y[:, None] + offset).clamp(0, height - 1) * width
        columns = (x[:, None] + offset).clamp(0, width - 1)
        self.windows = (rows[:, :, None] + columns[:, None, :]).flatten(1)  # (N, k * k), flat pixels
        self._find_pairs(target.where(valid, NO_CLASS).to(torch.int16).flatten()[self.windows], criterion.kernel_size)

    def _find_pairs(self, labels: Tensor, kernel_size: int) -> None:
        """For each class in each window, from the lowest on: the exact integer gradient."""
        kernel = _kernel_matrix(kernel_size, torch.float64 if kernel_size > 9 else torch.float32, labels.device)
        window, lowest = torch.arange(len(labels), device=labels.device), None
        windows, classes, gradients = [], [], []
        while len(window):
            rest = labels if lowest is None else labels.where(labels > lowest[:, None], NO_CLASS)
            lowest = rest.amin(dim=1)
            left = lowest < NO_CLASS
            window, labels, lowest = window[left], labels[left], lowest[left]
            gradient = (labels == lowest[:, None]).to(kernel.dtype) @ kernel  # (pairs, 2)
            found = (gradient != 0).any(dim=1)
            windows.append(window[found])
            classes.append(lowest[found].long())
            gradients.append(gradient[found])
        empty = window.new_zeros(0)
        self.window = torch.cat([empty, *windows])  # (P), row of `windows`
        self.classes = torch.cat([empty, *classes])  # (P)
        self.gradient = torch.cat([kernel.new_zeros(0, 2), *gradients])  # (P, 2)

    def entries(self) -> Tensor:
        """How many entries (pixel, class, direction) there are."""
        return (self.gradient != 0).sum()


def _squared_error(
    logits: Tensor,
    boundary: _Boundary,
    kernel_size: int,
    weight: Tensor,
    enlargement: Enlargement,
    gradient: Tensor | None,
) -> Tensor:
    """Sum of one image's squared errors over its boundary; ``weight`` times its gradient is added to ``gradient``."""
    height, width = enlargement.large
    needed = torch.zeros(height * width, dtype=torch.bool, device=logits.device)
    needed[boundary.windows.flatten()] = True
    pixels = needed.nonzero()[:, 0]  # (M)
    place = torch.empty(height * width, dtype=torch.int64, device=logits.device)
    place[pixels] = torch.arange(len(pixels), device=logits.device)
    probability = enlargement.pixels(logits, pixels).softmax(dim=1)  # (M, C)

    kernel = _kernel_matrix(kernel_size, logits.dtype, logits.device)
    _, denominator = integer_kernel(kernel_size)
    at = place[boundary.windows[boundary.window]] * len(logits) + boundary.classes[:, None]  # (P, k * k)
    predicted = probability.view(-1)[at] @ kernel  # (P, 2)
    true = boundary.gradient.to(logits.dtype)
    error = (predicted - true).where(true != 0, 0) / denominator
    if gradient is not None:
        by_probability = torch.zeros_like(probability)
        by_entry = (error * (2 * weight / denominator)) @ kernel.T  # (P, k * k)
        by_probability.view(-1).index_add_(0, at.flatten(), by_entry.flatten())
        by_probability -= (by_probability * probability).sum(dim=1, keepdim=True)
        by_probability *= probability
        enlargement.add_pixels(gradient, by_probability, pixels)
    return error.square().sum()


def _kernel_matrix(kernel_size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The integer kernel and its transpose, (k * k, 2): a window of labels or probabilities times it is its gradient."""
    kernel = torch.tensor(integer_kernel(kernel_size)[0], dtype=dtype, device=device)
    return torch.stack([kernel.flatten(), kernel.T.flatten()], dim=1)


def _holds_two_labels(labels: Tensor, radius: int) -> Tensor:
    """Whether the window around each pixel holds more than one label, (H, W)."""
    differs = torch.zeros_like(labels, dtype=torch.bool)
    for dim in range(2):
        # The edge between a pixel and the next lies in the windows of both, and of those up to radius - 1 further.
        length = labels.shape[dim]
        if length < 2:
            continue
        edge = labels.narrow(dim, 1, length - 1) != labels.narrow(dim, 0, length - 1)
        near = torch.zeros_like(differs)
        for offset in range(-radius, radius):
            start, stop = max(0, -offset), min(length, length - 1 - offset)
            if start < stop:
                near.narrow(dim, start, stop - start).logical_or_(edge.narrow(dim, start + offset, stop - start))
        differs |= _reach_along(near, radius, 1 - dim)
    return differs


def _reach(mask: Tensor, radius: int) -> Tensor:
    """Whether the window around each pixel holds a pixel of the mask, (H, W)."""
    return _reach_along(_reach_along(mask, radius, 0), radius, 1)


def _reach_along(mask: Tensor, radius: int, dim: int) -> Tensor:
    reached, length = mask.clone(), mask.shape[dim]
    for offset in range(1, min(radius, length - 1) + 1):
        reached.narrow(dim, offset, length - offset).logical_or_(mask.narrow(dim, 0, length - offset))
        reached.narrow(dim, 0, length - offset).logical_or_(mask.narrow(dim, offset, length - offset))
    return reached
