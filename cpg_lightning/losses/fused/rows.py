"""One pass over rows of upsampled logits: the value of cross-entropy plus CPG, and its gradient."""

import math
from dataclasses import dataclass
from itertools import pairwise, product, starmap

import torch
import torch.nn.functional as F
from torch import Tensor

from .boundary import Boundary
from .buffer import RowBuffer
from .errors import BoundaryErrors, Entries
from .pixel_weights import PixelWeights, easy_or_ignored
from .upsampling import Bilinear, Identity, Upsampling

# On a CPU: enough logits to be worth the call of an operator, few enough to stay in the cache.
STRIP_LOGITS_CPU = 2**20
# On an accelerator: enough logits for a kernel to take far longer than its launch.
STRIP_LOGITS = 3 * 2**25


@dataclass(frozen=True)
class Options:
    """The options of :class:`~cpg_lightning.CrossEntropyCPGLoss` that the pass needs."""

    ignore_index: int
    cpg_weight: float = 0.0
    kernel_size: int = 3
    void_borders: bool = True
    label_smoothing: float = 0.0
    ohem_threshold: float | None = None
    ohem_min_kept: int = 0
    strip_logits: int | None = None


def cross_entropy_cpg(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None,
    options: Options,
    align_corners: bool,
    with_gradient: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradient of the loss by the logits in float32 or float64, (B, C, h, w), or None; the mean cross-entropy; CPG."""
    work = logits.float() if logits.element_size() < 4 else logits
    rows = Rows(work, target, class_weights, options, align_corners, with_gradient)
    rows.run()
    cpg = work.new_zeros(()) if rows.errors is None else rows.errors.mean()
    return rows.gradient, rows.cross_entropy, cpg


class Rows:
    """One call: its tensors, and the pass over rows.

    Attributes:
        gradient: Gradient of the loss by the logits, (B, C, h, w), or None.
        cross_entropy: The mean cross-entropy.
        factor: What a pixel's probabilities are multiplied with, see :class:`~.function._FusedCrossEntropyCPG`, (B, H, W).
        inverse: One by the sum of a pixel's exponentials, (B, H, W).
        is_nan: Where the gradient by upsampled logits is NaN, (B, H, W); None where the upsampling needs no such care.
    """

    def __init__(
        self,
        logits: Tensor,
        target: Tensor,
        class_weights: Tensor | None,
        options: Options,
        align_corners: bool,
        with_gradient: bool,
    ) -> None:
        self.options, self.logits = options, logits.contiguous()
        self.size = self.height, self.width = target.shape[1], target.shape[2]
        self.halo = 2 * (options.kernel_size // 2) if options.cpg_weight else 0
        on_cpu = logits.device.type == "cpu"
        self.strip_logits = options.strip_logits or (STRIP_LOGITS_CPU if on_cpu else STRIP_LOGITS)
        self.upsampling: Upsampling = Identity()
        self.is_nan: Tensor | None = None
        finite = on_cpu
        if logits.shape[2:] != self.size:
            self.upsampling = Bilinear((logits.shape[2], logits.shape[3]), self.size, align_corners, logits)
            # Checked on the CPU only: on a GPU the check would force a synchronisation.
            finite = on_cpu and math.isfinite(logits.sum())
            # The value alone has no NaN to place; there rows may be taken a part at a time, to save memory.
            if not finite and (on_cpu or with_gradient):
                self.is_nan = target.new_empty(target.shape, dtype=torch.bool)
        self.try_without_shift = finite
        self.images, self.step = self._images_and_rows()
        ignored = target == options.ignore_index
        self.classes = target.masked_fill(ignored, 0)
        self.gradient = self.upsampling.new_gradient(self.logits) if with_gradient else None
        self.memory = self._memory()
        self.inverse = logits.new_ones(target.shape)
        left_out = ignored
        if options.ohem_threshold is not None:
            kept = options.ohem_min_kept * len(target)  # of the whole call
            left_out = easy_or_ignored(self._likelihood(), ignored, options.ohem_threshold, kept)
        self.weights = PixelWeights(
            logits.shape[1],
            logits.dtype,
            self.classes,
            left_out,
            class_weights,
            options.label_smoothing,
            by_number=options.ohem_threshold is not None,
        )
        self.factor = self.weights.of_probabilities()
        self.cross_entropy = logits.new_zeros(())
        self.errors = self._boundary_errors(target) if options.cpg_weight and len(target) else None
        # The position of each pixel: image, row and column.
        sizes = ((len(target), 1, 1), (self.height, 1), (self.width,))
        self.position = [torch.arange(size[0], device=logits.device).view(size) for size in sizes]

    def run(self) -> None:
        """Go through all rows of all images."""
        strips = self._strips()
        starts = [0] * (len(strips) + 1) if self.errors is None else self.errors.boundary.starts
        entries: list[Entries] = []
        for (images, rows), runs in zip(strips, starmap(slice, pairwise(starts)), strict=True):
            if rows.start == 0:
                done, buffer = 0, self._buffer(images)
            self._accumulate_cross_entropy(images, rows, buffer)
            if self.errors is not None:
                entries += self.errors.accumulate_runs(runs, rows.stop, buffer, self.inverse, self.factor)
            ready = rows.stop if rows.stop == self.height else rows.stop - self.halo
            if self.gradient is not None:
                self._accumulate_rows(self.gradient, images, slice(done, ready), buffer, entries)
            entries = [each.after(ready) for each in entries if each.stop > ready]
            buffer.discard(ready, rows.stop)
            done = ready
        if self.gradient is not None and self.is_nan is not None:
            self.upsampling.accumulate_nan(self.gradient, self.is_nan)

    def _images_and_rows(self) -> tuple[int, int]:
        """The number of images in a strip, and of their rows. A strip of several images has all of their rows.

        Logits that may not be finite are upsampled as a whole: in a product with a matrix a NaN would spread.
        """
        rows = self.strip_logits // (self.logits.shape[1] * self.width)
        if rows >= self.height or self.is_nan is not None:
            return max(1, min(rows // self.height, len(self.logits))), self.height
        return 1, min(max(self.halo + 1, rows), self.height)

    def _strips(self) -> list[tuple[slice, slice]]:
        """The images and the rows of each strip, in order."""
        images, rows = (
            [slice(first, min(first + step, size)) for first in range(0, size, step)]
            for step, size in ((self.images, len(self.logits)), (self.step, self.height))
        )
        return list(product(images, rows))

    def _boundary_errors(self, target: Tensor) -> BoundaryErrors:
        options = self.options
        # On a CPU as many images at a time as in a strip, to save memory; elsewhere all, to save launches.
        images = self.images if target.device.type == "cpu" else len(target)
        parts = [
            Boundary(part, options.kernel_size, options.ignore_index, options.void_borders, self._first_rows(part))
            for part in torch.split(target, images)
        ]
        boundary = Boundary.joined(parts, images)
        return BoundaryErrors(
            boundary, options.kernel_size, self.size, options.cpg_weight, self.strip_logits, self.logits
        )

    def _first_rows(self, target: Tensor) -> Tensor:
        """Where the runs of each strip of some images start: those whose windows are complete with it; and the end."""
        all_rows, device = len(target) * self.height, target.device
        if self.step == self.height:
            step = self.images * self.height
            return torch.arange(0, all_rows + step, step, device=device).clamp_(max=all_rows)
        rows = (torch.arange(0, self.height, self.step, device=device) - self.halo // 2).clamp_(min=0)
        images = torch.arange(0, all_rows, self.height, device=device)[:, None]
        return F.pad((images + rows).view(-1), (0, 1), value=all_rows)

    def _memory(self) -> Tensor | None:
        """Memory for the rows of some images, or None where they have it in their gradient."""
        if self.gradient is not None and self.upsampling.in_place:
            return None
        if self.step == self.height:
            return self.logits.new_empty(self.images, self.logits.shape[1], *self.size)
        rows = min(self.step + self.halo, self.height)
        return self.logits.new_empty(self.images, rows, self.logits.shape[1], self.width).transpose(1, 2)

    def _buffer(self, images: slice) -> RowBuffer:
        if self.memory is not None:
            return RowBuffer(self.memory[: images.stop - images.start], images.start, moves=self.step < self.height)
        assert self.gradient is not None
        return RowBuffer(self.gradient[images], images.start, moves=False)

    def _likelihood(self) -> Tensor:
        """The probability of each pixel's true class, (B, H, W), before everything else."""
        likelihood = torch.empty_like(self.inverse)
        for images, rows in self._strips():
            buffer = self._buffer(images)
            buffer.first = rows.start if buffer.moves else 0
            of_true, _ = self._probabilities(images, rows, buffer.rows(rows), None)
            torch.exp(of_true, out=likelihood[images, rows])
        return likelihood

    def _accumulate_cross_entropy(self, images: slice, rows: slice, buffer: RowBuffer) -> None:
        """Write the exponentials of some rows to the buffer, and add their cross-entropy."""
        weights = self.weights
        smooth_weights = None if weights.smooth is None else weights.class_weights
        of_true, of_all = self._probabilities(images, rows, buffer.rows(rows), smooth_weights)
        self._subtract(weights.true[images, rows], of_true.masked_fill(weights.left_out[images, rows], 0))
        if weights.smooth is not None and of_all is not None:
            self._subtract(weights.smooth[images, rows], of_all.masked_fill(weights.left_out[images, rows], 0))

    def _subtract(self, weights: Tensor, log_probabilities: Tensor) -> None:
        self.cross_entropy -= weights.flatten().dot(log_probabilities.flatten())

    def _probabilities(
        self, images: slice, rows: slice, out: Tensor, class_weights: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Write probabilities to memory, but for a factor a pixel that is written to ``inverse``.

        Args:
            images: Some images.
            rows: Some of their rows.
            out: The memory, (N, C, rows, W).
            class_weights: Weight of each class, (C), or None.

        Returns:
            The log probability of the true class (N, rows, W), and the weighted sum of those of all classes.
        """
        part, logits = (images, rows), self.logits[images]
        true = self.classes[part].unsqueeze(1)
        if self.try_without_shift:
            # Most logits of networks need no shift, and finding it is a second pass over them. The sums tell.
            upsampled = self.upsampling.upsample(logits, rows, out)
            of_true, of_all = upsampled.gather(1, true)[:, 0], _weighted_sum(upsampled, class_weights)
            total = torch.exp(upsampled, out=out).sum(dim=1)
            if total.numel() and math.exp(-40) < total.min() and total.max() < math.exp(40):
                normaliser = total.log()
                torch.reciprocal(total, out=self.inverse[part])
                if class_weights is not None and of_all is not None:
                    of_all -= normaliser * class_weights.sum()
                return of_true - normaliser, of_all
        log_probability = self.upsampling.upsample(logits, rows, out).log_softmax(dim=1)
        torch.exp(log_probability, out=out)
        return log_probability.gather(1, true)[:, 0], _weighted_sum(log_probability, class_weights)

    def _accumulate_rows(
        self, gradient: Tensor, images: slice, rows: slice, buffer: RowBuffer, entries: list[Entries]
    ) -> None:
        """From the exponentials of some rows to their gradient, and through the upsampling to that of the logits."""
        part = images, rows
        dense = buffer.rows(rows)
        dense *= (self.factor[part] * self.inverse[part]).unsqueeze(1)
        image, row, column = self.position
        true = buffer.index(image[images], self.classes[part], row[rows], column)
        buffer.accumulate_entries(true, self.weights.true[part], alpha=-1)
        if self.weights.smooth is not None:
            dense.addcmul_(self.weights.class_weights[:, None, None], self.weights.smooth[part].unsqueeze(1), value=-1)
        for each in entries:
            some = each.before(rows.stop)
            buffer.accumulate_entries(some.index, some.value)
        if self.is_nan is not None:
            self.is_nan[part] = dense[:, 0].isnan()
            dense.nan_to_num_(0.0)
        self.upsampling.accumulate_rows(gradient[images], dense, rows)


def _weighted_sum(values: Tensor, class_weights: Tensor | None) -> Tensor | None:
    """The sum over the classes: (N, C, rows, W) -> (N, rows, W)."""
    return None if class_weights is None else class_weights @ values.transpose(1, 2)
