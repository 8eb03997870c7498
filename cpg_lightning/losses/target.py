"""Checks of logits and target, shared by all losses."""

import torch
from torch import Tensor


def checked_target(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Check logits and target, and convert the target to int64.

    Args:
        logits: Logits, floating point, (B, C, h, w).
        target: Classes 0..C-1 or ``ignore_index``, integer, (B, H, W).
        ignore_index: Target value of ignored pixels.

    Returns:
        The target, int64: in uint8, a comparison with -100 would match 156.

    Raises:
        ValueError: For other shapes, dtypes or target values. Target values are checked on the CPU only: on a GPU the
            check would force a synchronisation.
    """
    if logits.ndim != 4:
        raise ValueError(f"expected logits of shape (B, C, H, W), got {tuple(logits.shape)}")
    if target.ndim != 3:
        remedy = ""
        if target.ndim == 4 and target.shape[1] == 1:
            remedy = "; pass target[:, 0]"
        elif target.ndim == 4 and target.shape[1] == logits.shape[1]:
            remedy = "; a one-hot target is converted by target.argmax(dim=1)"
        raise ValueError(
            f"expected a target of shape (B, H, W) with a class in each pixel, got {tuple(target.shape)}{remedy}"
        )
    if logits.shape[1] == 1:
        raise ValueError("expected logits of 2 or more classes, got 1; name the background as a class")
    if len(logits) != len(target):
        raise ValueError(f"expected as many logits as targets, got {len(logits)} and {len(target)} images")
    if 0 in (*logits.shape[1:], *target.shape[1:]):
        raise ValueError(
            f"expected classes and pixels, got logits {tuple(logits.shape)} and target {tuple(target.shape)}"
        )
    if not logits.is_floating_point():
        raise ValueError(f"expected floating-point logits, got {logits.dtype}; pass logits, not predicted classes")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"expected an integer target, got {target.dtype}; convert it with target.long()")
    target = target.long()
    if target.device.type == "cpu":
        num_classes = logits.shape[1]
        values = target.where(target != ignore_index, 0)
        if values.numel() and (values.min() < 0 or values.max() >= num_classes):
            wrong = values[(values < 0) | (values >= num_classes)]
            raise ValueError(
                f"expected target values 0..{num_classes - 1} or ignore_index={ignore_index}, "
                f"got {torch.unique(wrong).tolist()[:10]}"
            )
    return target
