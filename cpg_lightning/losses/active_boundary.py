"""The active boundary loss (ABL)."""

from itertools import accumulate, repeat
from math import inf

import torch
from torch import Tensor

from .criterion import SegmentationCriterion
from .target import checked_target
from .with_gradient import upsampled

# Row and column of each neighbour relative to a pixel. Of neighbours with equal distance to the boundary, the first is
# used.
NEIGHBOURS = ((1, 0), (-1, 0), (0, -1), (0, 1), (-1, 1), (1, 1), (-1, -1), (1, -1))
# Candidate thresholds for the predicted boundary: each is 1.2 times the previous one. The last ones exceed any
# Kullback-Leibler divergence of half-precision logits.
THRESHOLDS = tuple(accumulate(repeat(1.2, 300), lambda threshold, factor: threshold * factor, initial=1e-5))


class ActiveBoundaryLoss(SegmentationCriterion):
    r"""Cross-entropy of eight directions, which moves the predicted boundary towards the true boundary pixel by pixel.

    With :math:`p` the softmax of the logits, upsampled to the size of the target, and KL the Kullback-Leibler
    divergence:

    1. The true boundary: pixels whose right or lower neighbour has another label, and all ignored pixels. The distance
       :math:`m` of a pixel is its Euclidean distance to this boundary, rounded down, minus 1, and at least 0.
    2. The predicted boundary: pixels where the sum of the divergences from the right and from the lower neighbour
       exceeds a threshold, dilated by 3 x 3. The threshold is the smallest of 0.00001 times powers of 1.2 that is
       exceeded by at most ``max_N_ratio`` times the pixels of one image, counted over the whole batch.
    3. The direction :math:`t` of a predicted boundary pixel is the first of its eight neighbours with the smallest
       :math:`m`. The logits of the directions are :math:`k_j = \mathrm{KL}(p_j \| p)`, where :math:`p_j` is the
       neighbour's softmax:

    .. math::
        \mathcal{L} = \operatorname*{mean}_{\text{predicted boundary}} \frac{\min(m, 20)}{20} \, \mathrm{CE}(k, t)

    The cross-entropy is label-smoothed: the direction has weight 0.8 and each other neighbour 0.2 / 8, which sum to
    0.975. The published results use these weights. The loss is not continuous in the logits, because thresholds and
    directions jump. In half precision they could differ, so the loss converts half-precision logits to float32.

    Use this loss together with cross-entropy and Lovász-softmax, see :class:`WeightedSum`. Published mIoU (single runs;
    seeds of one training differ by 0.4 to 0.7): on Cityscapes 79.5 with cross-entropy, 79.6 with ABL added, 80.2 with
    Lovász-softmax added, 80.5 with both; on ADE20K 44.5, -, 44.7, 45.4. Lovász-softmax gives most of the gain on
    Cityscapes.

    Threshold and devices: all images of one call share the threshold. These are the images of one process and one
    micro-batch.

    SciPy computes the distances on the CPU with one transform per image, and a GPU waits for it. At 512x1024 pixels
    this takes about 0.05 seconds per image on one core. The host waits for the device four times per call. Besides the
    upsampled logits and their gradient, the loss needs four tensors of the size of one image's logits.

    Args:
        label_smoothing: Weight that the eight directions share, from 0 to 1.
        max_clip_dist: Distance in pixels above which the weight stays constant, positive.
        max_N_ratio: Largest number of predicted boundary pixels in all images of the call before dilation, as a
            fraction of the pixels of one image, above 0 and at most 1.
        detach: Whether the neighbours' logits are treated as constants. With ``False``, published results fell from
            79.6 to 76.0.
        ignore_index: Target value of ignored pixels; any integer.

    Shape:
        - logits: :math:`(B, C, h, w)`, floating point
        - target: :math:`(B, H, W)`, integer, classes :math:`0..C-1` or ``ignore_index``
        - output: scalar, float32, or float64 for float64 logits; 0 without a predicted boundary or without a true
          boundary

    Raises:
        ValueError: For arguments out of range, and, in the forward pass, for other shapes, dtypes or target values.
            Target values are checked on the CPU only: on a GPU the check would force a synchronisation.

    Source: Wang et al., "Active Boundary Loss for Semantic Segmentation", AAAI 2022, arXiv 2102.02696. The values equal
    those of the authors' code (wangchi95/active-boundary-loss) except for four defects of that code: it returns None
    without a predicted boundary; it gives an image without a true boundary the distances to a point outside the image;
    it upsamples with ``align_corners=True`` for every network; it waits for the device in each of some 70 trials of a
    threshold.

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

    # Not compiled: the transforms on the CPU would break the graph and would not run faster.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of upsampled logits (B, C, H, W)."""
        divergence = logits.new_empty(target.shape)
        for index, one in enumerate(logits.detach()):
            divergence[index] = divergence_from_neighbours(one)
        image, row, column = predicted_boundary(divergence, self.max_N_ratio).nonzero(as_tuple=True)  # (N)
        if not len(image):
            return 0 * logits.sum()  # differentiable, and NaN if the logits have NaN, which predicts no boundary
        distances = distances_to_boundary(target, self.ignore_index)
        height, width = target.shape[1:]
        rows = torch.stack([row + down for down, _ in NEIGHBOURS], dim=1)  # (N, 8)
        columns = torch.stack([column + right for _, right in NEIGHBOURS], dim=1)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        direction = distances[image[:, None], rows, columns].where(inside, 2**30).argmin(dim=1)  # the first minimum

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
    """Sum of the KL divergences of each pixel's prediction from those of its right and its lower neighbour.

    Args:
        logits: Logits of one image, (C, H, W).

    Returns:
        The sum, (H, W); a neighbour outside the image adds 0.
    """
    log_probabilities = logits.log_softmax(dim=0)
    probabilities = log_probabilities.exp()
    divergence = torch.zeros_like(logits[0])
    divergence[:, :-1] += (probabilities[:, :, :-1] * -log_probabilities.diff(dim=2)).sum(dim=0)
    divergence[:-1] += (probabilities[:, :-1] * -log_probabilities.diff(dim=1)).sum(dim=0)
    return divergence


def predicted_boundary(divergence: Tensor, ratio: float) -> Tensor:
    """Pixels of large divergence, dilated by 3 x 3, bool (B, H, W).

    Before dilation, all images together have at most ``ratio`` times the pixels of one image.
    At most n pixels exceed a threshold if and only if the (n + 1)-th largest value does not exceed it. One ``topk``
    thus replaces trying thresholds one by one, each with a device synchronisation.
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
    """Distance of each pixel (B, H, W) to the true boundary, see :class:`ActiveBoundaryLoss`; 0 without a boundary."""
    # Imported here because the import is slow, and only this loss and Kervadec's boundary loss need it.
    from scipy.ndimage import distance_transform_edt

    boundary = target == ignore_index
    boundary[:, :-1] |= target[:, 1:] != target[:, :-1]
    boundary[:, :, :-1] |= target[:, :, 1:] != target[:, :, :-1]
    distances = torch.zeros(target.shape, dtype=torch.int64)
    for image, elsewhere in enumerate((~boundary).cpu()):
        if not elsewhere.all():
            # The squared distance is exact, and so is the floor of its root.
            distances[image] = torch.from_numpy(distance_transform_edt(elsewhere.numpy())).long() - 1
    return distances.clamp_(min=0).to(target.device)
