"""F1 score of contour pixels that match within a distance."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from cpg_lightning.metrics.bands import VOID, label_map, one_pixel_contours
from cpg_lightning.metrics.counting import check_num_classes, count, without_class
from cpg_lightning.metrics.curve import CurveMetric

# Bytes of row distances that are computed together. The CPU is fastest when they fit into its cache.
BYTES_ON_CPU, BYTES = 2**20, 2**28


class BoundaryF1Score(CurveMetric):
    r"""F1 score of contour pixels, for each of several matching distances.

    .. math::
        F_c = \frac{2 P_c R_c}{P_c + R_c}

    The precision P is the fraction of the predicted contour pixels with a target contour pixel within the distance. The
    recall R is the fraction of the target's contour pixels with a predicted one within the distance. A pixel is on the
    contour of a class if the class's mask changes towards its east, south or south-east neighbour. The image border is
    not a contour. Ignored pixels are removed from both masks, so the borders of ignored regions are contours in both.

    Args:
        num_classes: Number of classes C.
        thresholds: Euclidean distances in pixels. A value below 1 is a fraction of the image's diagonal, rounded up to
            pixels.
        mode: ``"pooled"``: contour pixels are counted over all images; the mean is over the classes with contours.
            ``"present"``: mean over the images where the prediction or the target has a contour of the class, then over
            classes. ``"gscnn"``: mean over all images, then over all classes; a class without contours in an image
            scores
            1. GSCNN and later papers use it; it inflates the scores of rare classes.
        ignore_index: Target value of ignored pixels.
        kwargs: Keyword arguments of ``torchmetrics.Metric``.

    Shape:
        - preds: predicted classes, integer, :math:`(N, H, W)`
        - target: classes or ``ignore_index``, integer, :math:`(N, H, W)`
        - output: float64 :math:`(T)`, one value per threshold

    Raises:
        ValueError: For numbers out of range.

    Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (DAVIS),
    2016; Takikawa et al., "Gated-SCNN", 2019.

    Example:
        >>> target = torch.zeros(1, 8, 8, dtype=torch.int64)
        >>> target[:, :, 4:] = 1
        >>> metric = BoundaryF1Score(num_classes=2, thresholds=(1, 2))
        >>> metric(target.roll(2, dims=2), target)
        tensor([0., 1.], dtype=torch.float64)
    """

    counts: Tensor
    scores: Tensor
    present: Tensor
    images: Tensor

    def __init__(
        self,
        num_classes: int,
        thresholds: Sequence[float] = (1, 2, 3, 5, 9),
        mode: Literal["pooled", "present", "gscnn"] = "pooled",
        ignore_index: int = 255,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_num_classes(num_classes)
        if not thresholds or not all(0 < threshold < math.inf for threshold in thresholds):
            raise ValueError(f"expected thresholds to be positive and finite, got {thresholds}")
        if mode not in ("pooled", "present", "gscnn"):
            raise ValueError(f"expected mode to be pooled, present or gscnn, got {mode!r}")
        self.num_classes = num_classes
        self.thresholds = tuple(thresholds)
        self.mode = mode
        self.ignore_index = ignore_index
        shape = (len(thresholds), num_classes)
        # Contour pixels: predicted and matched, predicted, labelled and matched, labelled.
        self.add_state("counts", torch.zeros(*shape, 4, dtype=torch.int64), dist_reduce_fx="sum")
        if mode != "pooled":  # these states need float64, which some devices lack
            self.add_state("scores", torch.zeros(*shape, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("present", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def distances(self, height: int, width: int) -> list[float]:
        """The thresholds in pixels for images of the given height and width."""
        diagonal = math.hypot(height, width)
        return [threshold if threshold >= 1 else math.ceil(threshold * diagonal) for threshold in self.thresholds]

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the contour pixels of a batch."""
        ignored = target == self.ignore_index
        pairs = torch.stack([label_map(preds, ignored), label_map(target, ignored)], dim=1)  # (N, 2, H, W)
        distances = self.distances(*target.shape[-2:])
        for pair in pairs:
            counts = contour_counts(pair, distances, self.num_classes)
            self.counts += counts
            if self.mode != "pooled":
                # A Trainer with a precision such as bf16-true converts the state.
                self.scores = self.scores.double() + f1(counts).nan_to_num(0).to(self.scores.device)
                self.present += (counts[0, :, 1] + counts[0, :, 3]) > 0
                self.images += 1

    def compute(self) -> Tensor:
        """The mean over classes, for each threshold."""
        return self.of_classes().nanmean(dim=1)

    def of_classes(self) -> Tensor:
        """The score of each class, float64 (T, C); NaN for a class that is excluded from the mean."""
        if self.mode == "pooled":
            scores = f1(self.counts)
        elif self.mode == "present":
            scores = self.scores / self.present.where(self.present > 0, torch.nan)
        else:
            scores = (self.scores + (self.images - self.present)) / self.images
        return without_class(scores, self.ignore_index)


def f1(counts: Tensor) -> Tensor:
    """The F1 score of counts (..., 4), float64 (...); see :func:`contour_counts` for the counts.

    The score is NaN if neither prediction nor target has a contour, and 0 if only one of them has.
    """
    matched_preds, preds, matched_target, target = counts.cpu().double().unbind(dim=-1)
    precision, recall = (
        part / whole.clamp(min=1) for part, whole in ((matched_preds, preds), (matched_target, target))
    )
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    return score.where(preds + target > 0, torch.nan)


def contour_counts(pair: Tensor, distances: Sequence[float], num_classes: int) -> Tensor:
    """The number of contour pixels of two label maps, and of those that match within each distance.

    Args:
        pair: Prediction and target: classes or ``VOID``, uint8 (2, H, W).
        distances: Euclidean distances in pixels, 1 or more.
        num_classes: Number of classes C.

    Returns:
        int64 (T, C, 4): for each distance and class, the predicted contour pixels that match, all predicted ones, the
        target's contour pixels that match, and all of the target's.
    """
    distances = [min(distance, sum(pair.shape[1:])) for distance in distances]  # the largest possible distance
    pixels, classes = one_pixel_contours(pair)
    # One entry per pixel and class, sorted by class. Entries of VOID come last.
    classes, order = classes.view(-1).sort(stable=True)
    pixels = pixels.index_select(0, order % max(1, len(pixels)))
    side = pixels // pair[0].numel()  # 0 in the prediction, 1 in the target
    sides = count((side * (VOID + 1) + classes)[None], 2 * (VOID + 1)).view(2, -1)[:, :num_classes]
    numbers = sides.tolist()
    entries = sum(map(sum, numbers))
    pixels, classes, side = pixels[:entries] % pair[0].numel(), classes[:entries], side[:entries]
    squared = squared_distances(pixels, classes, side, numbers, pair.shape[1:], max(distances))
    ascending = sorted(distances)
    level = torch.zeros_like(classes)  # how many of the distances are too short
    for distance in ascending:
        level += squared > int(distance**2)
    bins = (side * num_classes + classes) * (len(ascending) + 1) + level
    matched = count(bins[None], 2 * num_classes * (len(ascending) + 1)).view(2, num_classes, -1).cumsum(dim=2)
    every = sides[..., None].expand_as(matched)
    counts = torch.stack([matched[0], every[0], matched[1], every[1]], dim=2)  # (C, T + 1, 4)
    return torch.stack([counts[:, ascending.index(distance)] for distance in distances])


def squared_distances(
    pixels: Tensor, classes: Tensor, side: Tensor, numbers: list[list[int]], size: Sequence[int], reach: float
) -> Tensor:
    """Squared distance of each contour entry to the nearest one of its class in the other label map.

    It is a Euclidean distance transform in two separable passes. The first writes the squared distance along the row to
    the cells around each contour pixel. The second takes the minimum over the rows above and below, at contour pixels
    only.

    Args:
        pixels: Flat index of each entry in its label map, int64 (E).
        classes: Its class, ascending, uint8 (E).
        side: Its label map, 0 or 1, int64 (E).
        numbers: Number of entries of each label map and class, (2, C).
        size: Height and width of the label maps.
        reach: Largest distance of interest in pixels.

    Returns:
        Integers (E); any number above the square of ``reach`` if no such entry is within ``reach``.
    """
    (height, width), far, reach = size, int(reach**2) + 1, int(reach)
    dtypes = (torch.uint8, torch.int16, torch.int32, torch.int64)
    dtype = next(dtype for dtype in dtypes if far + reach**2 <= torch.iinfo(dtype).max)
    # One plane per class and label map. Margins at the right and at the bottom hold distances beyond the image.
    stride = width + reach
    plane = (height + reach) * stride
    places = pixels + pixels // width * reach
    ends = [0, *accumulate(map(sum, zip(*numbers, strict=True)))]
    nearest = torch.full((ends[-1],), far, dtype=dtype, device=pixels.device)
    limit = BYTES_ON_CPU if pixels.device.type == "cpu" else BYTES
    at_once = max(1, limit // (2 * plane * dtype.itemsize))
    for first in range(0, len(numbers[0]), at_once):
        last = min(len(numbers[0]), first + at_once)
        if not any(all(each) for each in list(zip(*numbers, strict=True))[first:last]):
            continue  # none of these classes is in both label maps
        entries = slice(ends[first], ends[last])
        planes = 2 * (classes[entries].to(torch.int64) - first)
        own = (planes + side[entries]) * plane + places[entries]
        other = (planes + 1 - side[entries]) * plane + places[entries]
        origin = reach * stride
        rows = torch.full((origin + 2 * (last - first) * plane,), far, dtype=dtype, device=pixels.device)
        for step in range(reach, -1, -1):  # smaller distances overwrite larger ones
            rows[origin + step :].index_fill_(0, own, step**2)
            rows[origin - step :].index_fill_(0, own, step**2)
        for step in range(-reach, reach + 1):
            squared = rows[origin + step * stride :].index_select(0, other).add_(step**2)
            torch.minimum(nearest[entries], squared, out=nearest[entries])
    return nearest
