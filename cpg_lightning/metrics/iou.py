"""Intersection over union of each class, from one confusion matrix."""

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from cpg_lightning.metrics.counting import check_num_classes, count, fraction, without_class

AbsentClasses = Literal["skip", "skip_always", "zero"]


class ClassIoU(MulticlassJaccardIndex):
    r"""Intersection over union of each class from one confusion matrix over everything it was updated with.

    .. math::
        \mathrm{IoU}_c = \frac{\mathrm{TP}_c}{\mathrm{TP}_c + \mathrm{FP}_c + \mathrm{FN}_c}

    Pixels of ``ignore_index`` in the target do not count. ``compute().nanmean()`` is the mIoU. Benchmarks differ in what
    they do about a class that the labels do not have:

    ================= ======================= =====================
    ``absent``        never predicted         predicted
    ================= ======================= =====================
    ``"skip"``        left out                0
    ``"skip_always"`` left out                left out
    ``"zero"``        0                       0
    ================= ======================= =====================

    They are Cityscapes' official evaluation (also mmsegmentation's), COCO-Stuff's and ADE20K's (also HRNet's).

    It is torchmetrics' ``MulticlassJaccardIndex`` except for how it counts and divides. Counting takes no wait for the
    device and, under ``Trainer(deterministic=True)``, no memory that grows with classes times pixels. Division is in float64.

    Args:
        num_classes: Number of classes C.
        ignore_index: Target value that is no class.
        absent: What is done about a class that the labels do not have.
        kwargs: Keyword arguments of ``torchmetrics.Metric``.

    Attributes:
        last_confusion: The confusion matrix of the last batch, int64 (C, C); zeros before the first.

    Shape:
        - preds: predicted classes, integer, :math:`(B, H, W)`
        - target: classes or ``ignore_index``, integer, :math:`(B, H, W)`
        - output: float64 :math:`(C)`, NaN for a class that is left out

    Raises:
        ValueError: For numbers out of range.

    Example:
        >>> import torch
        >>> metric = ClassIoU(num_classes=3)
        >>> metric.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 1, 255]]]))
        >>> metric.compute()
        tensor([1., 1., nan], dtype=torch.float64)
    """

    def __init__(
        self, num_classes: int, ignore_index: int = 255, absent: AbsentClasses = "skip", **kwargs: Any
    ) -> None:
        check_num_classes(num_classes)
        super().__init__(num_classes, average="none", ignore_index=ignore_index, validate_args=False, **kwargs)
        if absent not in ("skip", "skip_always", "zero"):
            raise ValueError(f"expected absent to be skip, skip_always or zero, got {absent!r}")
        self.absent = absent
        self.void = ignore_index  # where torchmetrics has it, it may be None
        self.last_confusion = torch.zeros_like(self.confmat)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: For a class that does not exist. Checked on the CPU only: on a GPU the check would force a
                synchronisation.
        """
        self.last_confusion = confusion(preds, target, self.num_classes, self.void)
        self.confmat += self.last_confusion

    def compute(self) -> Tensor:
        """The IoU of each class; NaN for those left out and for ``ignore_index``, if it is one of them."""
        return intersection_over_union(self.confmat, self.absent, self.void)

    def confusion_matrix(self) -> Tensor:
        """Pixels of each target class (rows) predicted as each class (columns), of all processes, int64 (C, C)."""
        with self.sync_context():
            return self.confmat.clone()


def confusion(preds: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Pixels of each target class (rows) predicted as each class (columns), int64 (C, C).

    Raises:
        ValueError: For a class that does not exist. Checked on the CPU only: on a GPU the check would force a
            synchronisation.
    """
    preds, target = preds.long(), target.long()  # narrow integers would overflow below
    valid = target != ignore_index
    if target.device.type == "cpu":
        for name, classes in (("predictions", preds), ("targets", target)):
            low, high = classes.where(valid, 0).aminmax()
            if low < 0 or high >= num_classes:
                raise ValueError(f"expected {name} to be classes 0..{num_classes - 1}, got {low}..{high}")
    pairs = (target * num_classes + preds).where(valid, num_classes**2).view(1, -1)
    return count(pairs, num_classes**2 + 1)[0, :-1].view(num_classes, num_classes)


def intersection_over_union(confmat: Tensor, absent: AbsentClasses = "skip", ignore_index: int = 255) -> Tensor:
    """The IoU of each class of a confusion matrix (C, C), float64 (C); see :class:`ClassIoU`."""
    confmat = confmat.cpu()
    labelled, right = confmat.sum(dim=1), confmat.diagonal()
    iou = fraction(right, labelled + confmat.sum(dim=0) - right)
    if absent == "zero":
        iou = iou.nan_to_num(0)
    elif absent == "skip_always":
        iou = iou.where(labelled > 0, torch.nan)
    return without_class(iou, ignore_index)


def accuracies(confmat: Tensor) -> dict[str, Tensor]:
    """Further scores of a confusion matrix (C, C), float64 scalars.

    ``pixel_accuracy`` is the fraction of the pixels that are right. ``class_accuracy`` is the mean, over the classes that
    the labels have, of the fraction of their pixels that are right. ``fwIoU`` is the mean IoU weighted by each class's
    fraction of the labels.
    """
    labelled, right = confmat.sum(dim=1), confmat.diagonal()
    return {
        "pixel_accuracy": fraction(right.sum(), confmat.sum()),
        "class_accuracy": fraction(right, labelled).nanmean(),
        "fwIoU": (fraction(labelled, confmat.sum()) * intersection_over_union(confmat, "zero", ignore_index=-1)).sum(),
    }
