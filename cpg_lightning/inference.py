"""From images to classes: whole or by windows, at several scales, mirrored, around any network."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Network = Callable[[Tensor], Tensor]
LARGEST_LOGIT = 80.0  # whose exponential float32 has
LARGEST_STRIP = 2**26  # probabilities that are finished together


class Inference:
    r"""How the logits of a network become the classes of an image's pixels.

    The image is resized by each scale and looked at as it is and, with ``flip``, mirrored. Where a resized image is larger
    than the window, the network sees it through windows. Its logits :math:`z`, enlarged to the window, become

    - ``"softmax"``: probabilities, :math:`\mathrm{mean}(\mathrm{softmax}(z), \mathrm{softmax}(z_\mathrm{mirrored}))`, or
    - ``"exponential"``: HRNet-OCR's official way, :math:`\exp(\mathrm{mean}(z, z_\mathrm{mirrored}))`,

    which are averaged where windows overlap, enlarged to the image and added up over the scales.

    Nothing of the image's size times the number of classes is kept: rows are finished from the top to the bottom, and what is
    kept is of one row of windows. An image of 8000x8000 takes the memory of a strip of it.

    Args:
        window: Height and width of the window in pixels of the resized image; the whole image by default.
        stride: How far a window is from the next, down and across; two thirds of the window by default.
        windows_at_once: Windows that the network is given in one batch.
        scales: What the image is resized by.
        long_side: Resize the image's longer side to this many pixels times each scale instead.
        flip: Whether the mirrored image is looked at too.
        average: How logits become what is averaged.
        pad: Whether an image that is smaller than the window is padded to it, at the bottom and the right, with the
            network's mean colour.

    Raises:
        ValueError: For numbers out of range.

    Source: HRNet-Semantic-Segmentation, branch HRNet-OCR, ``lib/datasets``, ``multi_scale_inference``, for the official way.
    """

    def __init__(
        self,
        window: tuple[int, int] | None = None,
        stride: tuple[int, int] | None = None,
        windows_at_once: int = 1,
        scales: Sequence[float] = (1.0,),
        long_side: int | None = None,
        flip: bool = False,
        average: Literal["softmax", "exponential"] = "softmax",
        pad: bool = False,
    ) -> None:
        if window is None and (stride is not None or pad):
            raise ValueError("expected a window with a stride or padding, got none")
        if window is not None:
            stride = stride or (max(1, 2 * window[0] // 3), max(1, 2 * window[1] // 3))
            if min(*window, *stride) < 1 or stride[0] > window[0] or stride[1] > window[1]:
                raise ValueError(
                    f"expected a window of 1 or more pixels and a stride of at most that, got {window} and {stride}"
                )
        if not scales or min(scales) <= 0:
            raise ValueError(f"expected scales to be positive, got {scales}")
        for name, number in (("windows_at_once", windows_at_once), ("long_side", long_side)):
            if number is not None and number < 1:
                raise ValueError(f"expected {name} to be 1 or more, got {number}")
        if average not in ("softmax", "exponential"):
            raise ValueError(f"expected average to be softmax or exponential, got {average!r}")
        self.window = window
        self.stride = stride
        self.windows_at_once = windows_at_once
        self.scales = tuple(scales)
        self.long_side = long_side
        self.flip = flip
        self.average = average
        self.pad = pad

    def classes(self, network: Network, images: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
        """The most probable class of each pixel.

        Args:
            network: Logits (B, C, h, w), at any stride, of normalised images (B, 3, H, W).
            images: Normalised images, (B, 3, H, W).
            size: Height and width of the result.
            align_corners: How logits are enlarged.

        Returns:
            int64 (B, height, width).
        """
        strips = self._strips(network, images, size, align_corners)
        return torch.cat([strip.argmax(dim=1) for strip in strips], dim=1)

    def probabilities(
        self, network: Network, images: Tensor, size: tuple[int, int], align_corners: bool = False
    ) -> Tensor:
        """The probability of each class at each pixel, float32 (B, C, height, width), on the CPU; as :meth:`classes`."""
        strips = self._strips(network, images, size, align_corners)
        return torch.cat([(strip / strip.sum(dim=1, keepdim=True)).cpu() for strip in strips], dim=2)

    def _strips(self, network: Network, images: Tensor, size: tuple[int, int], align_corners: bool) -> Iterator[Tensor]:
        """Probabilities up to a factor, (B, C, rows, width), of one strip of rows after the other."""
        height, width = images.shape[-2:]
        looks = []
        for scale in self.scales:
            factor = scale if self.long_side is None else scale * self.long_side / max(height, width)
            resized = max(1, round(height * factor)), max(1, round(width * factor))
            scaled = images
            if resized != (height, width):
                scaled = F.interpolate(images, resized, mode="bilinear", align_corners=False)
            looks.append(_Look(self, network, scaled, size, align_corners))
        per_row = looks[0].rows(0, 1).numel()
        step = max(1, LARGEST_STRIP // per_row)
        for top in range(0, size[0], step):
            bottom = min(size[0], top + step)
            strip = looks[0].rows(top, bottom)
            for look in looks[1:]:
                strip += look.rows(top, bottom)
            yield strip


class _Look:
    """What the network says of an image at one scale, row by row of the result.

    ``total`` is the sum, over the windows so far, of what becomes of the logits, (B, C, rows, w), and ``count`` the number of
    windows, (rows, w); the first row is ``start``. Rows before ``finished`` have all their windows.
    """

    def __init__(
        self, inference: Inference, network: Network, images: Tensor, size: tuple[int, int], align_corners: bool
    ) -> None:
        self.inference = inference
        self.network = network
        self.images = images
        self.size = size
        self.align_corners = align_corners
        self.height, self.width = images.shape[-2:]
        window = inference.window or (self.height, self.width)
        stride = inference.stride or window
        self.tops = _starts(self.height, window[0], stride[0])
        self.lefts = _starts(self.width, window[1], stride[1])
        self.window = min(window[0], self.height), min(window[1], self.width)
        self.next, self.start, self.finished = 0, 0, 0
        self.total: Tensor | None = None
        self.count = images.new_zeros((0, self.width), dtype=torch.float32)

    def rows(self, top: int, bottom: int) -> Tensor:
        """Those rows of the result, (B, C, bottom - top, width); never before those that were asked for last."""
        # Rows of the resized image that they lie between, as in bilinear interpolation.
        places = torch.arange(top, bottom, device=self.images.device, dtype=torch.float32)
        if self.align_corners:
            places = places * ((self.height - 1) / max(1, self.size[0] - 1))
        else:
            places = (places + 0.5) * (self.height / self.size[0]) - 0.5
        places = places.clamp(0, self.height - 1)
        upper = places.floor().long()
        lower = (upper + 1).clamp(max=self.height - 1)
        first, last = int(upper[0]), int(lower[-1])
        total = self._finish(first, last)
        mean = total[:, :, : last + 1 - first] / self.count[: last + 1 - first]
        if self.height != self.size[0]:
            share = (places - upper)[:, None]
            mean = mean[:, :, upper - first].lerp(mean[:, :, lower - first], share)
        else:
            mean = mean[:, :, upper - first]
        if self.width != self.size[1]:
            size = (mean.shape[2], self.size[1])
            mean = F.interpolate(mean, size, mode="bilinear", align_corners=self.align_corners)
        return mean

    def _finish(self, first: int, last: int) -> Tensor:
        """Look through windows until the rows up to ``last`` are finished, and forget those before ``first``."""
        while self.finished <= last:
            self._add(self.tops[self.next])
            self.next += 1
            self.finished = self.tops[self.next] if self.next < len(self.tops) else self.height
        if self.total is None:
            raise RuntimeError("no rows were looked at")
        if first > self.start:
            self.total, self.count = self.total[:, :, first - self.start :], self.count[first - self.start :]
            self.start = first
        return self.total

    def _add(self, top: int) -> None:
        """Add a row of windows."""
        height, width = self.window
        at_once = self.inference.windows_at_once
        for chunk in (self.lefts[index : index + at_once] for index in range(0, len(self.lefts), at_once)):
            windows = torch.cat([self.images[:, :, top : top + height, left : left + width] for left in chunk])
            for left, seen in zip(chunk, self._seen(windows).chunk(len(chunk)), strict=True):
                self._make_room(seen, top + height)
                rows, columns = slice(top - self.start, top - self.start + height), slice(left, left + width)
                if self.total is not None:
                    self.total[:, :, rows, columns] += seen
                self.count[rows, columns] += 1

    def _make_room(self, seen: Tensor, bottom: int) -> None:
        """Let ``total`` and ``count`` reach down to a row."""
        missing = bottom - self.start - self.count.shape[0]
        if missing > 0:
            more = seen.new_zeros((len(self.images), seen.shape[1], missing, self.width))
            self.total = more if self.total is None else torch.cat([self.total, more], dim=2)
            self.count = torch.cat([self.count, self.count.new_zeros((missing, self.width))])

    def _seen(self, windows: Tensor) -> Tensor:
        """What becomes of the logits of windows, float32 (N, C, height, width)."""
        logits = self._logits(windows)
        mirrored = self._logits(windows.flip(-1)).flip(-1) if self.inference.flip else logits
        if self.inference.average == "exponential":
            return ((logits + mirrored) / 2).clamp(-LARGEST_LOGIT, LARGEST_LOGIT).exp()
        probabilities = logits.softmax(dim=1)
        return (probabilities + mirrored.softmax(dim=1)) / 2 if self.inference.flip else probabilities

    def _logits(self, windows: Tensor) -> Tensor:
        size = windows.shape[-2:]
        if self.inference.pad and self.inference.window is not None:
            down, right = (max(0, side - own) for side, own in zip(self.inference.window, size, strict=True))
            windows = F.pad(windows, [0, right, 0, down])
        logits = self.network(windows).float()
        if logits.shape[-2:] != windows.shape[-2:]:
            logits = F.interpolate(logits, windows.shape[-2:], mode="bilinear", align_corners=self.align_corners)
        return logits[:, :, : size[0], : size[1]]


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin: a stride apart, the last one at the end."""
    return sorted({*range(0, max(1, length - window), stride), max(0, length - window)})
