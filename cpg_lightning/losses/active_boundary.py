"""The active boundary loss (ABL)."""

from itertools import accumulate, repeat
from math import inf

import torch
from torch import Tensor

from .criterion import SegmentationCriterion
from .target import checked_target
from .with_gradient import upsampled

# Row and column of each neighbour relative to a pixel. Among neighbours at one distance to the boundary the first counts.
NEIGHBOURS = ((1, 0), (-1, 0), (0, -1), (0, 1), (-1, 1), (1, 1), (-1, -1), (1, -1))
# The thresholds that are tried for the predicted boundary: each is 1.2 times the one before. The last ones exceed any
# Kullback-Leibler divergence of logits in half precision.
THRESHOLDS = tuple(accumulate(repeat(1.2, 300), lambda threshold, factor: threshold * factor, initial=1e-5))


class ActiveBoundaryLoss(SegmentationCriterion):
    r"""Moves the predicted boundary, pixel by pixel, towards the true one: the cross-entropy of eight directions.

    With :math:`p` the softmax of the logits, upsampled to the size of the target, and KL the Kullback-Leibler divergence:

    1. The true boundary: pixels whose right or lower neighbour has another label, and all ignored pixels. A pixel's distance
       :math:`m` to it is rounded down, less 1, and not negative.
    2. The predicted boundary: the divergence of a pixel from its right neighbour plus that from its lower one exceeds a
       threshold, the smallest of 0.00001 times powers of 1.2 that at most ``max_N_ratio`` of an image's pixels exceed,
       counted in the whole batch; then dilated by 3 x 3.
    3. For each pixel of the predicted boundary, the direction :math:`t` is the first of the eight neighbours with the smallest
       :math:`m`, and the logits of the directions are :math:`k_j = \mathrm{KL}(p_j \| p)`, with :math:`p_j` the neighbour's:

    .. math::
        \mathcal{L} = \operatorname*{mean}_{\text{predicted boundary}} \frac{\min(m, 20)}{20} \, \mathrm{CE}(k, t)

    The cross-entropy is label-smoothed: the direction has the weight 0.8 and each other 0.2 / 8, in sum 0.975. That is what
    published results were trained with. The loss is not continuous in the logits: thresholds and directions jump. In half
    precision they may be others, whereas logits under autocast are computed in float32 here.

    It is meant to be trained with cross-entropy and Lovász-softmax, see :class:`WeightedSum`. Published trainings (single
    runs; the seeds of one training differ by 0.4 to 0.7): on Cityscapes cross-entropy 79.5 mIoU, with ABL 79.6, with
    Lovász-softmax 80.2, with both 80.5; on ADE20K 44.5, -, 44.7, 45.4. Most of the gain on Cityscapes is that of
    Lovász-softmax.

    Budget and devices: all images of the call share the threshold, hence those of one process and one micro-batch.

    SciPy computes the distances on the CPU, in one transform an image, for which a GPU waits. At 512x1024 pixels that is about
    0.05 seconds an image on one core. In all the host waits four times in a call. Besides the upsampled logits and their
    gradient, one image at a time needs four tensors of its logits' size.

    Args:
        label_smoothing: Weight that the eight directions share, from 0 to 1.
        max_clip_dist: Distance in pixels from which on the weight no longer grows, positive.
        max_N_ratio: Pixels of the predicted boundary before the dilation in all images of the call, as a share of the pixels
            of one image, above 0.
        detach: Whether the neighbours' logits are constants. Without, published results fell from 79.6 to 76.0.
        ignore_index: Target value that is no class; any integer.

    Shape:
        - logits: :math:`(B, C, h, w)`, floating point
        - target: :math:`(B, H, W)`, integer, classes :math:`0..C-1` or ``ignore_index``
        - output: scalar, in float32, or float64 for float64 logits; 0 without a predicted or without a true boundary

    Raises:
        ValueError: For arguments out of range, and, in the forward pass, for shapes, dtypes or target values other than
            above. Target values are checked on the CPU only: on a GPU the check would force a synchronisation.

    Source: Wang et al., "Active Boundary Loss for Semantic Segmentation", AAAI 2022, arXiv 2102.02696. Equal to its authors'
    code (wangchi95/active-boundary-loss), but for what is a defect there: without a predicted boundary it returns None, an
    image without a true boundary gets the distances to a point outside of it, it upsamples with ``align_corners=True``
    whatever the network does, and it waits for the device in each of some 70 trials of a threshold.

    Example:
        >>> import torch
        >>> from cpg_lightning.losses import ActiveBoundaryLoss
        >>> target = (torch.arange(32) >= 6).long().expand(1, 32, 32)
        >>> logits = torch.stack([4.0 * (torch.arange(32) < 20), 4.0 * (torch.arange(32) >= 20)]).expand(1, 32, 2, 32)
        >>> logits = logits.transpose(1, 2).requires_grad_()  # predicted at column 20, true at 6
        >>> loss = ActiveBoundaryLoss(max_N_ratio=0.1)(logits, target)
        >>> loss.backward()
    """

    def __init__(
        self,
        label_smoothing: float = 0.2,
        max_clip_dist: float = 20.0,
        max_N_ratio: float = 0.01,
        detach: bool = True,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(ignore_index)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"expected label_smoothing to be from 0 to 1, got {label_smoothing}")
        if not 0 < max_clip_dist < inf:
            raise ValueError(f"expected max_clip_dist to be a positive, finite number of pixels, got {max_clip_dist}")
        if not 0 < max_N_ratio <= 1:
            raise ValueError(f"expected max_N_ratio to be above 0 and at most 1, got {max_N_ratio}")
        self.label_smoothing = label_smoothing
        self.max_clip_dist = max_clip_dist
        self.max_N_ratio = max_N_ratio
        self.detach = detach

    def forward(self, logits: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
        """See :class:`ActiveBoundaryLoss`; ``align_corners`` as in ``torch.nn.functional.interpolate``."""
        target = checked_target(logits, target, self.ignore_index)
        with torch.autocast(logits.device.type, enabled=False):
            loss = self._loss(upsampled(logits, (target.shape[1], target.shape[2]), align_corners), target)
        self.terms = {"abl": loss.detach()}
        return loss

    # Compiled, its transforms on the CPU would break the graph and be no faster.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of upsampled logits (B, C, H, W)."""
        divergence = logits.new_empty(target.shape)
        for index, one in enumerate(logits.detach()):
            divergence[index] = divergence_from_neighbours(one)
        image, row, column = predicted_boundary(divergence, self.max_N_ratio).nonzero(as_tuple=True)  # (N)
        if not len(image):
            return 0 * logits.sum()  # with a gradient, and NaN for logits of NaN, which predict no boundary
        distances = distances_to_boundary(target, self.ignore_index)
        height, width = target.shape[1:]
        rows = torch.stack([row + down for down, _ in NEIGHBOURS], dim=1)  # (N, 8)
        columns = torch.stack([column + right for _, right in NEIGHBOURS], dim=1)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        direction = distances[image[:, None], rows, columns].where(inside, 2**30).argmin(dim=1)  # the first of equals

        of_neighbours = logits.detach() if self.detach else logits
        neighbours = of_neighbours[image[:, None], :, rows, columns].log_softmax(dim=2)  # (N, 8, C)
        centres = logits[image, :, row, column].log_softmax(dim=1)  # (N, C)
        divergences = (neighbours.exp() * (neighbours - centres[:, None])).sum(dim=2)  # (N, 8)
        weights = torch.full_like(divergences, self.label_smoothing / len(NEIGHBOURS))
        weights.scatter_(1, direction[:, None], 1 - self.label_smoothing)
        cross_entropy = -(weights * divergences.log_softmax(dim=1)).sum(dim=1)
        distance = distances[image, row, column].to(logits.dtype)
        return (distance.clamp(max=self.max_clip_dist) / self.max_clip_dist * cross_entropy).mean()

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"label_smoothing={self.label_smoothing}, max_clip_dist={self.max_clip_dist}, "
            f"max_N_ratio={self.max_N_ratio}, detach={self.detach}, ignore_index={self.ignore_index}"
        )


def divergence_from_neighbours(logits: Tensor) -> Tensor:
    """KL divergence of each pixel's prediction from that of its right and of its lower neighbour.

    Args:
        logits: Of one image, (C, H, W).

    Returns:
        The sum of the two, (H, W); a neighbour outside of the image adds 0.
    """
    log_probabilities = logits.log_softmax(dim=0)
    probabilities = log_probabilities.exp()
    divergence = torch.zeros_like(logits[0])
    divergence[:, :-1] += (probabilities[:, :, :-1] * -log_probabilities.diff(dim=2)).sum(dim=0)
    divergence[:-1] += (probabilities[:, :-1] * -log_probabilities.diff(dim=1)).sum(dim=0)
    return divergence


def predicted_boundary(divergence: Tensor, ratio: float) -> Tensor:
    """Pixels of large divergence (B, H, W), at most a ratio of an image's pixels in all images, dilated by 3 x 3.

    No trial of thresholds, each of which would wait for the device: at most n pixels exceed a threshold if the largest but
    n does not.
    """
    most = int(ratio * divergence[:1].numel())
    thresholds = torch.tensor(THRESHOLDS, dtype=divergence.dtype, device=divergence.device)
    threshold = thresholds[:1]
    if divergence.numel() > most:
        largest = divergence.nan_to_num(0).flatten().topk(most + 1).values[-1:]
        threshold = thresholds.gather(0, torch.searchsorted(thresholds, largest).clamp(max=len(thresholds) - 1))
    core = (divergence > threshold).to(divergence.dtype)
    return torch.nn.functional.max_pool2d(core.unsqueeze(1), 3, stride=1, padding=1).squeeze(1) > 0


def distances_to_boundary(target: Tensor, ignore_index: int) -> Tensor:
    """Distance of each pixel (B, H, W) to its image's true boundary, see :class:`ActiveBoundaryLoss`; 0 without one."""
    # Slow to import, and only this loss and Kervadec's boundary loss need it.
    from scipy.ndimage import distance_transform_edt

    boundary = target == ignore_index
    boundary[:, :-1] |= target[:, 1:] != target[:, :-1]
    boundary[:, :, :-1] |= target[:, :, 1:] != target[:, :, :-1]
    distances = torch.zeros(target.shape, dtype=torch.int64)
    for image, elsewhere in enumerate((~boundary).cpu()):
        if not elsewhere.all():
            # Its square is exact, and so is the floor of its root.
            distances[image] = torch.from_numpy(distance_transform_edt(elsewhere.numpy())).long() - 1
    return distances.clamp_(min=0).to(target.device)
