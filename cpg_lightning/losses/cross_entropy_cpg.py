"""Cross-entropy plus CPG: the criterion of training."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .cpg import integer_kernel
from .criterion import SegmentationCriterion
from .fused.boundary import NO_CLASS
from .fused.function import fused_cross_entropy_cpg
from .fused.rows import Options
from .target import checked_target


class CrossEntropyCPGLoss(SegmentationCriterion):
    r"""Cross-entropy plus the weighted CPG loss, on a network's logits at whatever stride.

    .. math::
        \mathcal{L} = \mu \, \mathrm{CE}(z, t) + \lambda \, \mathrm{CPG}(z, t)

    with :math:`z` the logits, upsampled bilinearly to the size of the target :math:`t`, and :class:`~cpg_lightning.CPGLoss`
    as CPG. Both parts are means over this call, and 0 where every pixel is ignored. After a forward pass ``terms`` holds
    them, detached and unweighted, as ``{"ce": ..., "cpg": ...}``. A part with the weight 0 is not listed, and CPG with the weight
    0 is not computed.

    Args:
        cpg_weight: The weight :math:`\lambda`, 0 or more. 0 is plain cross-entropy.
        kernel_size: Side of CPG's kernel in pixels, odd, 3 to 15.
        ignore_index: Target value of ignored pixels; any integer.
        void_borders: Whether CPG counts boundaries against ignored regions, see :class:`~cpg_lightning.CPGLoss`.
        class_weights: Weight of each class in the cross-entropy, as ``weight`` of ``F.cross_entropy`` (but the mean of
            online hard example mining is by the number of pixels, as in the official code); in the auxiliary output's too.
        label_smoothing: As in ``F.cross_entropy``.
        ohem_threshold: With one, cross-entropy is over hard pixels alone (online hard example mining, as in the official
            HRNet-OCR code): those whose true class is predicted with less than this probability, or than that of the
            pixel at place ``ohem_min_kept`` times B in the order of all pixels of this call, whichever is more. CPG's
            entries are not selected.
        ohem_min_kept: Pixels an image that are kept at least. 32,768 by default: the official 131,072 for the 4 images of a
            process. Counted by the image, it means the same on any number of devices.
        strip_logits: How many logits are upsampled at a time. More of them need more memory and fewer operations. ``None``
            takes :math:`2^{20}` on the CPU, which stay in its cache. On an NVIDIA GPU it takes none: Triton kernels upsample
            each logit where it is needed. They are not used for float64, kernels above 7 pixels, with
            ``torch.use_deterministic_algorithms(True)`` or where Triton does not work, of which a warning is given. There, and
            on other devices, ``None`` takes :math:`3 \cdot 2^{25}` (384 MiB in float32, held twice), since each operation
            costs a launch, and no less than one image.
        ce_weight: The weight :math:`\mu`, 0 or more. 0 is CPG alone, to be added to other losses by
            :class:`~cpg_lightning.losses.WeightedSum`. It does not change the auxiliary output's loss.

    Shape:
        - logits: :math:`(B, C, h, w)`, floating point
        - target: :math:`(B, H, W)`, integer, classes :math:`0..C-1` or ``ignore_index``
        - output: scalar, in float32, or float64 for float64 logits

    Raises:
        ValueError: If a weight is negative or infinite or both are 0, for a kernel size that is not odd or out of range, and, in the
            forward pass, for shapes, dtypes or target values other than above. Target values are checked on the CPU
            only: on a GPU the check would force a synchronisation. There, the loss is NaN or the process ends with a
            device-side assertion.
        RuntimeError: For a second derivative: the gradient is computed with the value. On Apple's devices kernels above
            9 pixels need float64, which those do not have.

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
        class_weights: Iterable[float] | None = None,
        label_smoothing: float = 0.0,
        ohem_threshold: float | None = None,
        ohem_min_kept: int = 32768,
        strip_logits: int | None = None,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(ignore_index, class_weights, strip_logits)
        integer_kernel(kernel_size)
        for name, weight in (("cpg_weight", cpg_weight), ("ce_weight", ce_weight)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"expected {name} to be 0 or more and finite, got {weight}")
        if not (cpg_weight or ce_weight):
            raise ValueError("expected cpg_weight or ce_weight to be above 0, got 0 for both")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"expected label_smoothing to be from 0 to 1, got {label_smoothing}")
        if ohem_threshold is not None and not 0 < ohem_threshold <= 1:
            raise ValueError(f"expected ohem_threshold to be a probability above 0, got {ohem_threshold}")
        if ohem_min_kept < 0:
            raise ValueError(f"expected ohem_min_kept to be 0 or more pixels an image, got {ohem_min_kept}")
        if ohem_threshold is not None and label_smoothing:
            raise ValueError(
                "expected ohem_threshold or label_smoothing, got both: how hard a smoothed pixel is, is not defined"
            )
        self.cpg_weight = cpg_weight
        self.ce_weight = ce_weight
        self.kernel_size = kernel_size
        self.void_borders = void_borders
        self.label_smoothing = label_smoothing
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept

    # Compiled, the pass over rows would break into many graphs and be no faster.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """See :class:`CrossEntropyCPGLoss`; ``align_corners`` as in ``torch.nn.functional.interpolate``."""
        target = checked_target(logits, target, self.ignore_index)
        if logits.shape[1] >= NO_CLASS:
            raise ValueError(f"expected fewer than {NO_CLASS} classes, got {logits.shape[1]}")
        # The pass has the weight 1 for cross-entropy, with whose pixels weighted by 0 it is CPG alone.
        scale = self.ce_weight or 1.0
        options = Options(
            self.ignore_index,
            self.cpg_weight / scale,
            self.kernel_size,
            self.void_borders,
            self.label_smoothing,
            self.ohem_threshold,
            self.ohem_min_kept,
            self.strip_logits,
        )
        dtype = torch.promote_types(logits.dtype, torch.float32)
        weights = self.weights_for(logits) if self.ce_weight else logits.new_zeros(logits.shape[1], dtype=dtype)
        loss, ce, cpg = fused_cross_entropy_cpg(logits, target, weights, options, align_corners)
        terms = {"ce": (ce, self.ce_weight), "cpg": (cpg, self.cpg_weight)}
        self.terms = {name: term for name, (term, weight) in terms.items() if weight}
        return loss if scale == 1 else scale * loss

    def extra_repr(self) -> str:
        """The constructor's numbers, but for the weights of the classes."""
        names = ("cpg_weight", "ce_weight", "kernel_size", "ignore_index", "void_borders", "label_smoothing")
        ohem = () if self.ohem_threshold is None else ("ohem_threshold", "ohem_min_kept")
        return ", ".join(f"{name}={getattr(self, name)}" for name in (*names, *ohem))
