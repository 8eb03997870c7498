"""Intersection over union, over a whole dataset."""

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex


class ClassIoU(MulticlassJaccardIndex):
    r"""Intersection over union of each class from one confusion matrix over everything it was updated with.

    .. math::
        \mathrm{IoU}_c = \frac{\mathrm{TP}_c}{\mathrm{TP}_c + \mathrm{FP}_c + \mathrm{FN}_c}

    Pixels of ``ignore_index`` in the target do not count. A class that occurs in neither predictions nor targets is NaN,
    so that ``compute().nanmean()`` is the mIoU of Cityscapes' official evaluation.

    It is torchmetrics' ``MulticlassJaccardIndex`` but for how it counts: by ``torch.bincount``, whose memory does not
    grow with classes times pixels under ``Trainer(deterministic=True)``.

    Args:
        num_classes: Number of classes C.
        ignore_index: Target value that is no class.

    Shape:
        - preds: predicted classes, integer, :math:`(B, H, W)`
        - target: classes or ``ignore_index``, integer, :math:`(B, H, W)`
        - output: :math:`(C)`

    Example:
        >>> import torch
        >>> metric = ClassIoU(num_classes=3)
        >>> metric.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 1, 255]]]))
        >>> metric.compute()
        tensor([1., 1., nan])
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__(
            num_classes, average="none", ignore_index=ignore_index, validate_args=False, zero_division=float("nan")
        )

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: For a class that there is not; looked at on the CPU only, elsewhere it would wait for the device.
        """
        valid = target.long() != self.ignore_index
        preds, target = preds.long()[valid], target.long()[valid]  # narrow integers would overflow below
        for name, classes in (("predictions", preds), ("targets", target)):
            if classes.device.type == "cpu" and ((classes < 0) | (classes >= self.num_classes)).any():
                raise ValueError(
                    f"expected {name} to be classes 0..{self.num_classes - 1}, got {classes.min()}..{classes.max()}"
                )
        pairs = target * self.num_classes + preds
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        self.confmat += counts.view(self.num_classes, self.num_classes)

    def compute(self) -> Tensor:
        """The IoU of each class; NaN for absent ones and for ``ignore_index``, where it is one of them."""
        iou: Tensor = super().compute()
        if self.ignore_index in range(self.num_classes):
            iou[self.ignore_index] = float("nan")
        return iou
