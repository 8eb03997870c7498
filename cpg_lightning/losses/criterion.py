"""The contract of a criterion."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from math import inf

import torch
from torch import Tensor, nn

from .fused.function import fused_cross_entropy_cpg
from .fused.rows import Options
from .target import checked_target


class SegmentationCriterion(nn.Module, ABC):
    """A loss on a network's logits, at whatever stride the network has.

    A subclass takes numbers in its constructor, so that YAML and ``--help`` can set them, upsamples the logits itself
    where they are smaller than the target, and leaves its parts in ``terms``: a detached scalar by name, for logging.

    Args:
        ignore_index: Target value of ignored pixels; any integer.
        class_weights: Weight of each class in the cross-entropy: a sequence, an array or a tensor of C numbers.
        strip_logits: See :class:`CrossEntropyCPGLoss`; for the auxiliary output.
    """

    terms: dict[str, Tensor]
    class_weights: tuple[float, ...] | None

    def __init__(
        self,
        ignore_index: int = 255,
        class_weights: Iterable[float] | None = None,
        strip_logits: int | None = None,
    ) -> None:
        super().__init__()
        if strip_logits is not None and strip_logits < 1:
            raise ValueError(f"expected strip_logits to be 1 or more logits, got {strip_logits}")
        self.ignore_index = ignore_index
        self.strip_logits = strip_logits
        self.terms = {}
        # Python's numbers have the precision of any logits; a buffer would be rounded where a module becomes bfloat16.
        self.class_weights = None if class_weights is None else tuple(float(weight) for weight in class_weights)
        if self.class_weights is not None and not (
            self.class_weights and all(0 <= weight < inf for weight in self.class_weights)
        ):
            raise ValueError(
                f"expected class_weights to be finite numbers of 0 or more, one per class, got {list(self.class_weights)}"
            )
        self._weights: Tensor | None = None  # those of the last call, so that they are copied to a device once

    @abstractmethod
    def forward(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """The loss of a network's main output.

        Args:
            logits: Floating point, (B, C, h, w).
            target: Integer, (B, H, W), classes 0..C-1 or ``ignore_index``.
            align_corners: How the logits are upsampled to (H, W), as in ``torch.nn.functional.interpolate``.

        Returns:
            A scalar.
        """

    def value(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """The loss without its gradient, in ``torch.inference_mode()`` too. Arguments as in :meth:`forward`."""
        # A criterion may use autograd in its forward pass, as many here do; it cannot with tensors of inference mode.
        with torch.inference_mode(False), torch.no_grad():
            value: Tensor = self(logits.clone(), target.clone(), align_corners)
        return value

    def term_names(self, num_classes: int) -> list[str]:
        """The names of the terms, from a forward pass of a few pixels of the first class.

        A criterion that cannot take these overrides it.

        Args:
            num_classes: Number of classes.

        Raises:
            ValueError: If the criterion is for another number of classes.
        """
        self.value(torch.zeros(1, num_classes, 16, 16), torch.zeros(1, 32, 32, dtype=torch.int64))
        names, self.terms = list(self.terms), {}
        return names

    # Compiled, the pass over rows would break into many graphs and be no faster.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def auxiliary(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """The loss of a network's auxiliary output: cross-entropy alone. Arguments as in :meth:`forward`."""
        target = checked_target(logits, target, self.ignore_index)
        options = Options(self.ignore_index, strip_logits=self.strip_logits)
        loss, _, _ = fused_cross_entropy_cpg(logits, target, self.weights_for(logits), options, align_corners)
        return loss

    def weights_for(self, logits: Tensor) -> Tensor | None:
        """The weight of each class (C), in float32 or the precision of the logits, whichever is more, on their device.

        Args:
            logits: (B, C, h, w)

        Returns:
            The weights, or None without ``class_weights``.

        Raises:
            ValueError: If there are weights for another number of classes.
        """
        if self.class_weights is None:
            return None
        if len(self.class_weights) != logits.shape[1]:
            raise ValueError(f"expected {logits.shape[1]} class_weights, one per class, got {len(self.class_weights)}")
        dtype = torch.promote_types(logits.dtype, torch.float32)
        cached = self._weights
        if cached is None or (cached.dtype, cached.device) != (dtype, logits.device):
            with torch.inference_mode(False):  # a later training step uses them too
                cached = self._weights = torch.tensor(self.class_weights, dtype=dtype, device=logits.device)
        return cached
