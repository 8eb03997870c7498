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
        """Count the pixels of a batch."""
        valid = target != self.ignore_index
        pairs = target[valid] * self.num_classes + preds[valid]
        counts = torch.bincount(pairs.flatten(), minlength=self.num_classes**2)
        self.confmat += counts.view(self.num_classes, self.num_classes)
