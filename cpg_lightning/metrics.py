"""Intersection over union and boundary metrics, over a whole dataset."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex

from cpg_lightning.label_geometry import VOID, Contours, band_levels, class_map, inner_band

AbsentClasses = Literal["skip", "skip_always", "zero"]
MOST_CLASSES = VOID  # label maps are bytes


class ClassIoU(MulticlassJaccardIndex):
    r"""Intersection over union of each class from one confusion matrix over everything it was updated with.

    .. math::
        \mathrm{IoU}_c = \frac{\mathrm{TP}_c}{\mathrm{TP}_c + \mathrm{FP}_c + \mathrm{FN}_c}

    Pixels of ``ignore_index`` in the target do not count. ``compute().nanmean()`` is the mIoU; benchmarks differ in what
    they do about a class that the labels do not have:

    ================= ======================= =====================
    ``absent``        never predicted         predicted
    ================= ======================= =====================
    ``"skip"``        left out                0
    ``"skip_always"`` left out                left out
    ``"zero"``        0                       0
    ================= ======================= =====================

    They are Cityscapes' official evaluation (also mmsegmentation's), COCO-Stuff's and ADE20K's (also HRNet's).

    It is torchmetrics' ``MulticlassJaccardIndex`` but for how it counts and divides: by ``torch.bincount``, whose memory
    does not grow with classes times pixels under ``Trainer(deterministic=True)``, and in float64.

    Args:
        num_classes: Number of classes C.
        ignore_index: Target value that is no class.
        absent: What is done about a class that the labels do not have.

    Shape:
        - preds: predicted classes, integer, :math:`(B, H, W)`
        - target: classes or ``ignore_index``, integer, :math:`(B, H, W)`
        - output: float64 :math:`(C)`, NaN for a class that is left out

    Example:
        >>> import torch
        >>> metric = ClassIoU(num_classes=3)
        >>> metric.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 1, 255]]]))
        >>> metric.compute()
        tensor([1., 1., nan], dtype=torch.float64)
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, absent: AbsentClasses = "skip") -> None:
        _check_classes(num_classes)
        super().__init__(num_classes, average="none", ignore_index=ignore_index, validate_args=False)
        if absent not in ("skip", "skip_always", "zero"):
            raise ValueError(f"expected absent to be skip, skip_always or zero, got {absent!r}")
        self.absent = absent
        self.void = ignore_index  # where torchmetrics has it, it may be None

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: For a class that there is not; looked at on the CPU only, elsewhere it would wait for the device.
        """
        self.confmat += confusion(preds, target, self.num_classes, self.void)

    def compute(self) -> Tensor:
        """The IoU of each class; NaN for those left out and for ``ignore_index``, where it is one of them."""
        return intersection_over_union(self.confmat, self.absent, self.void)

    def confusion_matrix(self) -> Tensor:
        """Pixels of each target class (rows) predicted as each class (columns), of all processes, int64 (C, C)."""
        with self.sync_context():
            return self.confmat.clone()


class BoundaryIoU(Metric):
    r"""Intersection over union of the inner boundary bands of predictions and targets, over a whole dataset.

    .. math::
        \mathrm{BIoU}_c = \frac{\sum_n |G^d_{n,c} \cap P^d_{n,c}|}{\sum_n |G^d_{n,c} \cup P^d_{n,c}|}

    The band of a class is what its mask loses by erosion with a box of :math:`2d + 1` pixels, the image's frame being a
    boundary, with d the dilation ratio's share of the image's diagonal, rounded, at least 1. Ignored pixels are another
    segment to the target, are not taken from the prediction, and do not count.

    Args:
        num_classes: Number of classes C.
        dilation_ratio: Width d as a share of the diagonal: 0.005 for Cityscapes, 0.02 for others.
        ignore_index: Target value that is no class.
        average: ``"macro"``, the mean over the classes that have a band, or ``"none"``, a value a class.

    Shape:
        - preds: predicted classes, integer, :math:`(N, H, W)`
        - target: classes or ``ignore_index``, integer, :math:`(N, H, W)`
        - output: float64, a scalar or :math:`(C)`, NaN for a class without a band

    Raises:
        ValueError: For numbers out of range.

    Source: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", 2021. That is for objects;
    for classes, pooled over the dataset, void is treated as in the paper's panoptic evaluation.

    Example:
        >>> target = torch.zeros(1, 8, 8, dtype=torch.int64)
        >>> target[:, :, 4:] = 1
        >>> metric = BoundaryIoU(num_classes=2)
        >>> metric(target, target)
        tensor(1., dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    intersection: Tensor
    union: Tensor

    def __init__(
        self,
        num_classes: int,
        dilation_ratio: float = 0.02,
        ignore_index: int = 255,
        average: Literal["macro", "none"] = "macro",
    ) -> None:
        super().__init__()
        _check_classes(num_classes)
        if not 0 < dilation_ratio < 1:
            raise ValueError(
                f"expected dilation_ratio to be a share of the diagonal between 0 and 1, got {dilation_ratio}"
            )
        if average not in ("macro", "none"):
            raise ValueError(f"expected average to be macro or none, got {average!r}")
        self.num_classes = num_classes
        self.dilation_ratio = dilation_ratio
        self.ignore_index = ignore_index
        self.average = average
        self.last_size: tuple[int, int] | None = None
        for state in ("intersection", "union"):
            self.add_state(state, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def seen(self) -> str:
        """The band's width in pixels in the images of the last batch, for people to read; nothing before the first."""
        return (
            ""
            if self.last_size is None
            else ", {} pixels at {}x{}".format(self.width(*self.last_size), *self.last_size)
        )

    def width(self, height: int, width: int) -> int:
        """The band's width d in pixels, of images of a height and a width."""
        return max(1, round(self.dilation_ratio * math.hypot(height, width)))

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the boundary pixels of a batch."""
        height, width = target.shape[-2:]
        self.last_size = (height, width)
        width = self.width(height, width)
        intersection, union = boundary_counts(preds, target, self.num_classes, width, self.ignore_index)
        self.intersection += intersection
        self.union += union

    def compute(self) -> Tensor:
        """The mean, or the value of each class."""
        values = _without(_share(self.intersection, self.union), self.ignore_index)
        return values.nanmean() if self.average == "macro" else values


class BoundaryF1Score(Metric):
    r"""F1 score of contour pixels, for each of several distances within which they match.

    .. math::
        F_c = \frac{2 P_c R_c}{P_c + R_c}

    with the precision P, the share of the prediction's contour pixels that have one of the target's within the distance, and
    the recall R, the reverse. A pixel is on the contour of a class whose mask differs to its east, south or south-east; the
    frame is no contour. Ignored pixels are taken from both masks, so their borders are contours in both.

    Args:
        num_classes: Number of classes C.
        thresholds: Euclidean distances: pixels, or, below 1, shares of the image's diagonal, rounded up to pixels.
        mode: ``"pooled"``: the contour pixels of all images together; mean over the classes that have any.
            ``"present"``: mean over the images in which the class has a contour on either side, then over classes.
            ``"gscnn"``: mean over all images, a class without any contour scoring 1, and over all classes; as in GSCNN and
            later papers, which inflates rare classes.
        ignore_index: Target value that is no class.

    Shape:
        - preds: predicted classes, integer, :math:`(N, H, W)`
        - target: classes or ``ignore_index``, integer, :math:`(N, H, W)`
        - output: float64 :math:`(T)`, one value a threshold

    Raises:
        ValueError: For numbers out of range.

    Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (DAVIS), 2016;
    Takikawa et al., "Gated-SCNN", 2019.

    Example:
        >>> target = torch.zeros(1, 8, 8, dtype=torch.int64)
        >>> target[:, :, 4:] = 1
        >>> metric = BoundaryF1Score(num_classes=2, thresholds=(1, 2))
        >>> metric(target.roll(2, dims=2), target)
        tensor([0., 1.], dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
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
    ) -> None:
        super().__init__()
        _check_classes(num_classes)
        if not thresholds or min(thresholds) <= 0:
            raise ValueError(f"expected thresholds to be positive, got {thresholds}")
        if mode not in ("pooled", "present", "gscnn"):
            raise ValueError(f"expected mode to be pooled, present or gscnn, got {mode!r}")
        self.num_classes = num_classes
        self.thresholds = tuple(thresholds)
        self.mode = mode
        self.ignore_index = ignore_index
        shape = (len(thresholds), num_classes)
        # Of prediction and target: contour pixels that match, and all.
        self.add_state("counts", torch.zeros(*shape, 4, dtype=torch.int64), dist_reduce_fx="sum")
        if mode != "pooled":  # which not every device could hold: it needs float64
            self.add_state("scores", torch.zeros(*shape, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("present", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def distances(self, height: int, width: int) -> list[float]:
        """The thresholds in pixels, of images of a height and a width."""
        diagonal = math.hypot(height, width)
        return [threshold if threshold >= 1 else math.ceil(threshold * diagonal) for threshold in self.thresholds]

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the contour pixels of a batch."""
        valid = target != self.ignore_index
        target, preds = class_map(target, valid), class_map(preds, valid)
        distances = self.distances(*target.shape[-2:])
        order = sorted(range(len(distances)), key=lambda index: distances[index])
        ascending = [distances[index] for index in order]
        reach = int(ascending[-1])
        for prediction, label in zip(preds, target, strict=True):
            predicted, labelled = Contours(prediction, reach), Contours(label, reach)
            counts = torch.zeros_like(self.counts)
            counts[order, :, 0] = predicted.matched(labelled, ascending, self.num_classes)
            counts[..., 1] = predicted.count(self.num_classes)
            counts[order, :, 2] = labelled.matched(predicted, ascending, self.num_classes)
            counts[..., 3] = labelled.count(self.num_classes)
            self.counts += counts
            if self.mode != "pooled":
                self.scores += _f1(counts).nan_to_num(0).to(self.scores.device)
                self.present += (counts[0, :, 1] + counts[0, :, 3]) > 0
                self.images += 1

    def compute(self) -> Tensor:
        """The mean over classes, for each threshold."""
        return self.of_classes().nanmean(dim=1)

    def of_classes(self) -> Tensor:
        """The score of each class, float64 (T, C), NaN for a class that does not count."""
        if self.mode == "pooled":
            scores = _f1(self.counts)
        elif self.mode == "present":
            scores = self.scores / self.present.where(self.present > 0, torch.nan)
        else:
            scores = (self.scores + (self.images - self.present)) / self.images
        return _without(scores, self.ignore_index)


class TrimapJaccardIndex(Metric):
    """Mean intersection over union in bands around the target's boundaries, for each of several widths.

    The band of width w is all pixels within w, by Chebyshev distance, of a pixel that has one of its 4 neighbours in another
    class. Both sides of a boundary have such pixels, so a straight one has w + 1 of each side in its band. Borders of
    ignored regions are no boundaries, and ignored pixels do not count. One confusion matrix a width is pooled over the
    dataset; a class that is in neither predictions nor targets of the band is left out.

    Args:
        num_classes: Number of classes C.
        widths: Widths of the bands in pixels.
        ignore_index: Target value that is no class.

    Shape:
        - preds: predicted classes, integer, :math:`(N, H, W)`
        - target: classes or ``ignore_index``, integer, :math:`(N, H, W)`
        - output: float64 :math:`(W)`, one value a width

    Raises:
        ValueError: For numbers out of range.

    Source: Kohli et al., "Robust Higher Order Potentials for Enforcing Label Consistency", 2009, for the idea; the seeds
    are this package's definition.

    Example:
        >>> target = torch.zeros(1, 8, 8, dtype=torch.int64)
        >>> target[:, :, 4:] = 1
        >>> metric = TrimapJaccardIndex(num_classes=2, widths=(0, 3))
        >>> metric(target.roll(1, dims=2), target)
        tensor([0.2500, 0.6000], dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    confmat: Tensor

    def __init__(self, num_classes: int, widths: Sequence[int] = (1, 2, 3, 5, 10), ignore_index: int = 255) -> None:
        super().__init__()
        _check_classes(num_classes)
        if not widths or min(widths) < 0 or any(width != int(width) for width in widths):
            raise ValueError(f"expected widths to be whole numbers of pixels, got {widths}")
        self.num_classes = num_classes
        self.widths = tuple(widths)
        self.ignore_index = ignore_index
        shape = (len(widths), num_classes, num_classes)
        self.add_state("confmat", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the pixels of a batch, in each band."""
        valid = target != self.ignore_index
        order = sorted(range(len(self.widths)), key=lambda index: self.widths[index])
        levels = band_levels(class_map(target, valid), [self.widths[index] for index in order])
        counted = valid & (levels < len(order))
        pairs = (levels[counted].to(torch.int64) * self.num_classes + target[counted]) * self.num_classes + preds[
            counted
        ]
        counts = torch.bincount(pairs, minlength=self.confmat.numel()).view_as(self.confmat).cumsum(dim=0)
        self.confmat[order] += counts

    def compute(self) -> Tensor:
        """The mean IoU in each band."""
        return torch.stack(
            [intersection_over_union(each, "skip", self.ignore_index).nanmean() for each in self.confmat]
        )


def confusion(preds: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Pixels of each target class (rows) predicted as each class (columns), int64 (C, C).

    Raises:
        ValueError: For a class that there is not; looked at on the CPU only, elsewhere it would wait for the device.
    """
    preds, target = preds.long(), target.long()  # narrow integers would overflow below
    valid = target != ignore_index
    if target.device.type == "cpu":
        for name, classes in (("predictions", preds), ("targets", target)):
            low, high = classes.where(valid, 0).aminmax()
            if low < 0 or high >= num_classes:
                raise ValueError(f"expected {name} to be classes 0..{num_classes - 1}, got {low}..{high}")
    pairs = (target * num_classes + preds).where(valid, num_classes**2).view(-1)
    return torch.bincount(pairs, minlength=num_classes**2 + 1)[:-1].view(num_classes, num_classes)


def boundary_counts(
    preds: Tensor, target: Tensor, num_classes: int, width: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Pixels in both bands and in either, of each class, int64 (C) each; see :class:`BoundaryIoU`."""
    valid = target != ignore_index
    target, preds = class_map(target, valid), preds.to(torch.uint8)
    in_target, in_preds = inner_band(target, width) & valid, inner_band(preds, width) & valid
    in_both = in_target & in_preds & (preds == target)
    targets, predictions, both = (
        torch.bincount(classes[where].to(torch.int64), minlength=num_classes)
        for classes, where in ((target, in_target), (preds, in_preds), (target, in_both))
    )
    return both, targets + predictions - both


def intersection_over_union(confmat: Tensor, absent: AbsentClasses = "skip", ignore_index: int = 255) -> Tensor:
    """The IoU of each class of a confusion matrix (C, C), float64 (C); see :class:`ClassIoU`."""
    confmat = confmat.cpu()
    labelled, right = confmat.sum(dim=1), confmat.diagonal()
    iou = _share(right, labelled + confmat.sum(dim=0) - right)
    if absent == "zero":
        iou = iou.nan_to_num(0)
    elif absent == "skip_always":
        iou = iou.where(labelled > 0, torch.nan)
    return _without(iou, ignore_index)


def accuracies(confmat: Tensor) -> dict[str, Tensor]:
    """What else a confusion matrix (C, C) says, float64 scalars.

    ``pixel_accuracy``, the share of the pixels that are right; ``class_accuracy``, the mean over the classes that the labels
    have of the share of theirs that are right; ``fwIoU``, the mean IoU weighed by each class's share of the labels.
    """
    labelled, right = confmat.sum(dim=1), confmat.diagonal()
    return {
        "pixel_accuracy": _share(right.sum(), confmat.sum()),
        "class_accuracy": _share(right, labelled).nanmean(),
        "fwIoU": (_share(labelled, confmat.sum()) * intersection_over_union(confmat, "zero", ignore_index=-1)).sum(),
    }


@dataclass
class ImageScores:
    """What is right of one image: NaN where there is nothing to score."""

    name: str
    boundary_iou: float
    mIoU: float
    pixel_accuracy: float


def image_scores(
    name: str, preds: Tensor, target: Tensor, class_iou: ClassIoU, boundary_iou: BoundaryIoU
) -> ImageScores:
    """The scores of one image (1, H, W), by metrics that count a dataset; they are not updated."""
    confmat = confusion(preds, target, class_iou.num_classes, class_iou.void)
    width = boundary_iou.width(*target.shape[-2:])
    both, either = boundary_counts(preds, target, class_iou.num_classes, width, class_iou.void)
    iou = intersection_over_union(confmat, "skip", class_iou.void)
    boundary = _without(_share(both, either), class_iou.void)
    accuracy = accuracies(confmat)["pixel_accuracy"]
    return ImageScores(name, boundary.nanmean().item(), iou.nanmean().item(), accuracy.item())


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Counts by counts in float64, on the CPU, as not every device has it; NaN where there are none."""
    return part.cpu().double() / whole.cpu().double()


def _f1(counts: Tensor) -> Tensor:
    """The score of counts (..., 4): matched and all of the prediction's, matched and all of the target's, float64 (...).

    NaN where neither has a contour, 0 where one has none.
    """
    matched_preds, preds, matched_target, target = counts.cpu().double().unbind(dim=-1)
    precision, recall = (
        part / whole.clamp(min=1) for part, whole in ((matched_preds, preds), (matched_target, target))
    )
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    return score.where(preds + target > 0, torch.nan)


def _without(values: Tensor, ignore_index: int) -> Tensor:
    """Values (..., C) with NaN for the class that is ignored, where it is one."""
    if 0 <= ignore_index < values.shape[-1]:
        values = values.clone()
        values[..., ignore_index] = torch.nan
    return values


def _check_classes(num_classes: int) -> None:
    if not 2 <= num_classes <= MOST_CLASSES:
        raise ValueError(
            f"expected from 2 to {MOST_CLASSES} classes, got {num_classes}; name the background as a class"
        )
