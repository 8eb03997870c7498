"""Intersection over union of each class from one confusion matrix."""

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from cpg_lightning.metrics.counting import check_num_classes, count, fraction, without_class

AbsentClasses = Literal["skip", "skip_always", "zero"]


class ClassIoU(MulticlassJaccardIndex):
    r"""Intersection over union of each class, from one confusion matrix over all updates.

    .. math::
        \mathrm{IoU}_c = \frac{\mathrm{TP}_c}{\mathrm{TP}_c + \mathrm{FP}_c + \mathrm{FN}_c}

    Pixels whose target is ``ignore_index`` are not counted. ``compute().nanmean()`` is the mIoU. Benchmarks differ in
    the score of a class that is absent from the labels:

    ================= ======================= =====================
    ``absent``        never predicted         predicted
    ================= ======================= =====================
    ``"skip"``        left out                0
    ``"skip_always"`` left out                left out
    ``"zero"``        0                       0
    ================= ======================= =====================

    The three rules are those of the official evaluations of Cityscapes (also mmsegmentation), COCO-Stuff and ADE20K
    (also HRNet), in this order.

    The class differs from torchmetrics' ``MulticlassJaccardIndex`` in counting and division. Counting does not
    synchronise with the device. Under ``Trainer(deterministic=True)`` its memory does not grow with classes times
    pixels. Division is in float64.

    Args:
        num_classes: Number of classes C.
        ignore_index: Target value of ignored pixels.
        absent: Score of a class that is absent from the labels, see the table.
        kwargs: Keyword arguments of ``torchmetrics.Metric``.

    Attributes:
        last_confusion: The confusion matrix of the last batch, int64 (C, C); zeros before the first batch.

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
        self.void = ignore_index  # torchmetrics' own attribute may be None
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
        """The IoU of each class; NaN for a class that is left out and for the class ``ignore_index``, if any."""
        return intersection_over_union(self.confmat, self.absent, self.void)

    def confusion_matrix(self) -> Tensor:
        """The confusion matrix over all processes, int64 (C, C): rows are targets, columns are predictions."""
        with self.sync_context():
            return self.confmat.clone()


def confusion(preds: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """The confusion matrix, int64 (C, C): rows are target classes, columns are predicted classes.

    Raises:
        ValueError: For a class that does not exist. Checked on the CPU only: on a GPU the check would force a
            synchronisation.
    """
    preds, target = preds.long(), target.long()  # small integer types would overflow below
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
    """Pixel accuracy, mean class accuracy and frequency-weighted IoU of a confusion matrix (C, C), float64 scalars.

    ``pixel_accuracy`` is the fraction of correctly predicted pixels. ``class_accuracy`` is the mean of this fraction
    over the classes in the labels. ``fwIoU`` is the sum of the IoUs, weighted by each class's fraction of the labelled
    pixels.
    """
    labelled, right = confmat.sum(dim=1), confmat.diagonal()
    return {
        "pixel_accuracy": fraction(right.sum(), confmat.sum()),
        "class_accuracy": fraction(right, labelled).nanmean(),
        "fwIoU": (fraction(labelled, confmat.sum()) * intersection_over_union(confmat, "zero", ignore_index=-1)).sum(),
    }
