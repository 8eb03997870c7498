"""Whole-image, sliding-window, multi-scale and flip prediction with any network."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cpg_lightning.row_interpolation import source_rows, upsampled_rows

Network = Callable[[Tensor], Tensor]
LARGEST_LOGIT = 80.0  # its exponential is finite in float32
LARGEST_STRIP = 2**26  # number of scores that are computed at once


class Inference:
    r"""Turns the logits of a network into the classes of an image's pixels.

    By default the network sees the whole image once. Its logits are upsampled to the size of the result. The predicted
    class is their argmax, and the probabilities are their softmax. With more than one view of the image (``scales``,
    ``flip``) the result is the mean of these probabilities.

    With a ``window``, the network sees each resized image through overlapping windows. The logits :math:`z` of a window are
    upsampled to the window's size and become scores, which are averaged where windows overlap, upsampled to the size of the
    result and added up over the scales. The scores are

    - ``"softmax"``: probabilities, :math:`\mathrm{mean}(\mathrm{softmax}(z), \mathrm{softmax}(z_\mathrm{mirrored}))`, or
    - ``"exponential"``: those of HRNet-OCR's official test, :math:`\exp(\mathrm{mean}(z, z_\mathrm{mirrored}))`. Without a
      ``window``, the whole image is then one window.

    The result is computed in strips of rows. Memory holds the logits at the network's own stride, or the scores of one row
    of windows, but never the scores of all classes and all pixels of a large image.

    Args:
        window: Height and width of the window in pixels of the resized image; the whole image by default.
        stride: Distance between windows in pixels, down and across; two thirds of the window by default.
        windows_at_once: Number of windows in one batch.
        scales: Factors by which the image is resized.
        long_side: Length in pixels of the longer side at scale 1; the image's own length by default.
        flip: Whether to average with the prediction of the mirrored image.
        average: How logits become scores.
        border: How a window that extends beyond the image is handled. ``"shift"`` moves it back to the border; an image that
            is smaller than the window is one smaller window. ``"pad"`` keeps its position and pads the image.
        pad_colour: RGB values in 0..255 of the padding; black by default, as in training.

    Raises:
        ValueError: For numbers out of range.

    Source: HRNet-Semantic-Segmentation, branch HRNet-OCR, ``lib/datasets``, ``multi_scale_inference``, for the official test.
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
        border: Literal["shift", "pad"] = "shift",
        pad_colour: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        if window is None and (stride is not None or border == "pad"):
            raise ValueError("expected a window together with stride or border='pad', got none; set window")
        if window is not None:
            stride = stride or (max(1, 2 * window[0] // 3), max(1, 2 * window[1] // 3))
            if min(*window, *stride) < 1 or stride[0] > window[0] or stride[1] > window[1]:
                raise ValueError(
                    f"expected a window of 1 or more pixels and a stride of at most that, got {window} and {stride}"
                )
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise ValueError(f"expected scales to be positive and finite, got {scales}")
        for name, number in (("windows_at_once", windows_at_once), ("long_side", long_side)):
            if number is not None and number < 1:
                raise ValueError(f"expected {name} to be 1 or more, got {number}")
        if average not in ("softmax", "exponential"):
            raise ValueError(f"expected average to be softmax or exponential, got {average!r}")
        if border not in ("shift", "pad"):
            raise ValueError(f"expected border to be shift or pad, got {border!r}")
        if len(pad_colour) != 3 or not all(0 <= value <= 255 for value in pad_colour):
            raise ValueError(f"expected pad_colour to be three RGB values from 0 to 255, got {pad_colour}")
        self.window = window
        self.stride = stride
        self.windows_at_once = windows_at_once
        self.scales = tuple(scales)
        self.long_side = long_side
        self.flip = flip
        self.average = average
        self.border = border
        self.pad_colour = tuple(pad_colour)

    def classes(self, network: Network, images: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
        """Predict the class of each pixel.

        Args:
            network: Maps RGB images in 0..255, (B, 3, h, w), to logits (B, C, ...) at its own stride.
            images: RGB images in 0..255, (B, 3, H, W).
            size: Height and width of the result in pixels.
            align_corners: How logits are upsampled, as in ``torch.nn.functional.interpolate``.

        Returns:
            int64 (B, height, width).
        """
        return self.classes_and_logits(network, images, size, align_corners)[0]

    def classes_and_logits(
        self, network: Network, images: Tensor, size: tuple[int, int], align_corners: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return :meth:`classes` and the logits (B, C, h, w) of the whole image; None instead of logits for several views."""
        views = self._views(network, images, size, align_corners)
        classes = torch.cat([scores.argmax(dim=1) for scores in _strips(views, size)], dim=1)
        return classes, views[0].logits[0] if isinstance(views[0], _WholeView) and self.one_view else None

    def probabilities(
        self, network: Network, images: Tensor, size: tuple[int, int], align_corners: bool = False
    ) -> Tensor:
        """Predict the probability of each class, float32 (B, C, height, width), on the CPU. Arguments as in :meth:`classes`."""
        strips = _strips(self._views(network, images, size, align_corners), size)
        if self.one_view:
            return torch.cat([logits.softmax(dim=1).cpu() for logits in strips], dim=2)
        return torch.cat([(scores / scores.sum(dim=1, keepdim=True)).cpu() for scores in strips], dim=2)

    @property
    def one_view(self) -> bool:
        """Whether nothing is averaged. The scores are then the upsampled logits."""
        return self.window is None and self.average == "softmax" and len(self.scales) == 1 and not self.flip

    def _shapes(self, images: Tensor) -> Iterator[tuple[int, int]]:
        """Yield height and width of the image at each scale, rounded as in HRNet's official code."""
        sides = images.shape[-2:]
        for scale in self.scales:
            longer = max(1, int((self.long_side or max(sides)) * scale + 0.5))
            height, width = (max(1, int(side * longer / max(sides) + 0.5)) for side in sides)
            yield height, width

    def _views(
        self, network: Network, images: Tensor, size: tuple[int, int], align_corners: bool
    ) -> "Sequence[_WholeView | _WindowedView]":
        resized = (_resized(images, *shape) for shape in self._shapes(images))
        if self.window is None and self.average == "softmax":
            return [_WholeView(network, each, size, align_corners, self.flip, self.one_view) for each in resized]
        return [_WindowedView(self, network, each, size, align_corners) for each in resized]


class _WholeView:
    """Whole-image prediction of one resized image, in row order.

    Args:
        network: See :meth:`Inference.classes`.
        images: (B, 3, h, w)
        size: Height and width of the result.
        align_corners: See :meth:`Inference.classes`.
        flip: Whether to average with the prediction of the mirrored image.
        logits: Whether :meth:`rows` returns logits instead of probabilities.
    """

    def __init__(
        self, network: Network, images: Tensor, size: tuple[int, int], align_corners: bool, flip: bool, logits: bool
    ) -> None:
        self.logits = [_at_least_float32(network(images))]
        if flip:
            self.logits.append(_at_least_float32(network(images.flip(-1))).flip(-1))
        self.size = size
        self.align_corners = align_corners
        self.as_logits = logits

    def rows(self, top: int, bottom: int) -> Tensor:
        """Compute logits or probabilities of some rows of the result, (B, C, bottom - top, width)."""
        upsampled = [upsampled_rows(z, 0, z.shape[2], self.size, top, bottom, self.align_corners) for z in self.logits]
        if self.as_logits:
            return upsampled[0]
        scores = upsampled[0].softmax(dim=1)
        for z in upsampled[1:]:
            scores = (scores + z.softmax(dim=1)) / 2
        return scores


class _WindowedView:
    """Sliding-window prediction of one resized image, in row order.

    ``total`` is the sum of the scores over the windows so far, (B, C, rows, w), and ``count`` the number of windows, (rows, w).
    Their first row is row ``start`` of the resized image. Rows before ``finished`` are complete: all their windows are added.
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
        self.tops = _starts(self.height, window[0], stride[0], inference.border)
        self.lefts = _starts(self.width, window[1], stride[1], inference.border)
        if inference.border == "shift":
            window = min(window[0], self.height), min(window[1], self.width)
        self.window = window
        self.next, self.start, self.finished = 0, 0, 0
        self.total: Tensor | None = None
        self.count = torch.zeros((0, self.width), device=images.device)

    def rows(self, top: int, bottom: int) -> Tensor:
        """Compute scores of some rows of the result, (B, C, bottom - top, width). Call this with ascending rows."""
        first, last = source_rows(self.height, self.size[0], top, bottom, self.align_corners)
        total = self._finish(first, last)
        mean = total[:, :, : last + 1 - first] / self.count[: last + 1 - first]
        return upsampled_rows(mean, first, self.height, self.size, top, bottom, self.align_corners)

    def _finish(self, first: int, last: int) -> Tensor:
        """Add windows until the rows up to ``last`` are complete. Drop the rows before ``first``."""
        while self.finished <= last:
            self._add_row_of_windows(self.tops[self.next])
            self.next += 1
            self.finished = self.tops[self.next] if self.next < len(self.tops) else self.height
        if self.total is None:
            raise RuntimeError("expected at least one window to be added")
        if first > self.start:
            self.total, self.count = self.total[:, :, first - self.start :], self.count[first - self.start :]
            self.start = first
        return self.total

    def _add_row_of_windows(self, top: int) -> None:
        bottom = min(top + self.window[0], self.height)
        at_once = self.inference.windows_at_once
        for chunk in (self.lefts[index : index + at_once] for index in range(0, len(self.lefts), at_once)):
            scores = self._scores(torch.cat([self._window(top, left) for left in chunk]))
            for left, window in zip(chunk, scores.chunk(len(chunk)), strict=True):
                self._extend(window, bottom)
                right = min(left + self.window[1], self.width)
                rows, columns = slice(top - self.start, bottom - self.start), slice(left, right)
                if self.total is not None:
                    self.total[:, :, rows, columns] += window[:, :, : bottom - top, : right - left]
                self.count[rows, columns] += 1

    def _window(self, top: int, left: int) -> Tensor:
        """Cut one window from the images, padded beyond their border, (B, 3, height, width)."""
        height, width = self.window
        inside = self.images[:, :, top : top + height, left : left + width]
        if inside.shape[-2:] == self.window:
            return inside
        window = inside.new_empty((len(inside), 3, height, width))
        for channel, value in enumerate(self.inference.pad_colour):  # copying a tensor of colours would synchronise
            window[:, channel] = value
        window[:, :, : inside.shape[2], : inside.shape[3]] = inside
        return window

    def _extend(self, scores: Tensor, bottom: int) -> None:
        """Append rows of zeros to ``total`` and ``count`` down to row ``bottom``."""
        missing = bottom - self.start - self.count.shape[0]
        if missing > 0:
            more = scores.new_zeros((len(self.images), scores.shape[1], missing, self.width))
            self.total = more if self.total is None else torch.cat([self.total, more], dim=2)
            self.count = torch.cat([self.count, self.count.new_zeros((missing, self.width))])

    def _scores(self, windows: Tensor) -> Tensor:
        """Compute the scores of windows, (N, C, height, width)."""
        logits = self._logits(windows)
        mirrored = self._logits(windows.flip(-1)).flip(-1) if self.inference.flip else logits
        if self.inference.average == "exponential":
            return ((logits + mirrored) / 2).clamp(-LARGEST_LOGIT, LARGEST_LOGIT).exp()
        probabilities = logits.softmax(dim=1)
        return (probabilities + mirrored.softmax(dim=1)) / 2 if self.inference.flip else probabilities

    def _logits(self, windows: Tensor) -> Tensor:
        logits = _at_least_float32(self.network(windows))
        if logits.shape[-2:] == windows.shape[-2:]:
            return logits
        return F.interpolate(logits, windows.shape[-2:], mode="bilinear", align_corners=self.align_corners)


def _strips(views: Sequence[_WholeView | _WindowedView], size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield the sum of the views' scores, (B, C, rows, width), for consecutive strips of rows."""
    step = max(1, LARGEST_STRIP // views[0].rows(0, 1).numel())
    for top in range(0, size[0], step):
        yield reduce(Tensor.add_, (view.rows(top, min(size[0], top + step)) for view in views))


def _starts(length: int, window: int, stride: int, border: str) -> list[int]:
    """Return the first pixel of each window along one side of an image."""
    if border == "pad":
        return list(range(0, max(0, length - window) + stride, stride))
    return sorted({*range(0, max(1, length - window), stride), max(0, length - window)})


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images.float(), (height, width), mode="bilinear", align_corners=False)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.element_size() < 4 else logits
