"""Adapter from networks of other libraries to :class:`SegmentationNetwork`."""

import warnings
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpg_lightning.networks.base import SegmentationNetwork, check_num_classes
from cpg_lightning.networks.probing import refusal, unused_parameters

# Image sides in pixels that are tried. Networks of a single fixed size often accept one of the last sides.
SIDES = (1, 2, 4, 8, 16, 32, 64, 128, 224, 256, 384, 512)


class Adapter(SegmentationNetwork):
    """Wraps any network that returns logits: as a tensor, as ``out`` or ``logits`` of a mapping, or as ``.logits``.

    A mapping may also have auxiliary logits as ``aux``, in some or all forward passes. None means no auxiliary output.

    Images are padded at the bottom and on the right with the mean colour, to ``min_size`` and to a multiple of
    ``size_divisor``. Logits of padded images are upsampled to the padded size and cropped to the image. Without
    padding, logits stay at the network's own stride.

    The constructor runs the network on black images. It finds the sizes that the network accepts, and the parameters
    that do not contribute to the logits. These parameters are frozen, because DDP would wait for their gradients, and a
    warning names them. A network without parameters is not run.

    Args:
        num_classes: Number of classes C; the network must have the same number.
        network: The network. On the command line, its ``class_path`` and ``init_args``.
        size_divisor: Divisor of the input height and width, in pixels; increased if trials show a larger one.
        align_corners: How the logits are upsampled, as in ``torch.nn.functional.interpolate``.
        mean: Mean of each colour channel for normalisation, for images in 0..1; ImageNet's by default.
        std: Standard deviation of each colour channel for normalisation; ImageNet's by default.
        min_size: Smallest input height and width in pixels; found by trials by default.
        fixed_size: Input height and width in pixels, for a network that accepts a single size; found by trials by
            default.
        channels_last: Whether weights and images use ``torch.channels_last``, which makes most convolutional networks
            faster. A network that calls ``view`` on its features may fail with it.

    Attributes:
        square: Whether the input must be square; images are padded to a square.

    Raises:
        ValueError: If there are fewer than 2 classes or a size is not positive. In the forward pass, for other outputs,
            another number of classes, or an image size that differs from ``fixed_size``.

    Example:
        >>> import torch
        >>> network = Adapter(5, torch.nn.Conv2d(3, 5, kernel_size=4, stride=4), size_divisor=4)
        >>> network(torch.rand(1, 3, 32, 40))["out"].shape, network(torch.rand(1, 3, 30, 41))["out"].shape
        (torch.Size([1, 5, 8, 10]), torch.Size([1, 5, 30, 41]))
    """

    def __init__(
        self,
        num_classes: int,
        network: nn.Module,
        size_divisor: int = 1,
        align_corners: bool = False,
        mean: tuple[float, float, float] = SegmentationNetwork.mean,
        std: tuple[float, float, float] = SegmentationNetwork.std,
        min_size: int | None = None,
        fixed_size: tuple[int, int] | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        if channels_last:
            self.memory_format = torch.channels_last
        for name, pixels in (("size_divisor", size_divisor), ("min_size", min_size), *_named_sides(fixed_size)):
            if pixels is not None and pixels < 1:
                raise ValueError(f"expected a {name} of 1 or more pixels, got {pixels}")
        self.num_classes = num_classes
        self.network = network
        self.size_divisor = size_divisor
        self.align_corners = align_corners
        self.mean, self.std = mean, std
        self.min_size = 1 if min_size is None else min_size
        self.fixed_size = None if fixed_size is None else (fixed_size[0], fixed_size[1])
        self.square = False
        if next(network.parameters(), None) is not None:
            if min_size is None and fixed_size is None:
                self.unprobed = self._learn_sizes()
            if self.unprobed is None:
                self.unprobed = self._freeze_unused()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See :meth:`SegmentationNetwork.forward`."""
        height, width = images.shape[-2:]
        size = self._padded_size(height, width)
        padded = images if size == (height, width) else F.pad(images, (0, size[1] - width, 0, size[0] - height))
        logits = self._named(self.network(padded))
        for name, tensor in logits.items():
            if tensor.ndim != 4 or tensor.shape[1] != self.num_classes:
                raise ValueError(
                    f"expected logits of shape (B, {self.num_classes}, h, w) from {type(self.network).__name__}, "
                    f"got {tuple(tensor.shape)} as {name!r}"
                )
            if padded is not images:
                # At a stride, the image's edge may fall between two positions.
                if tensor.shape[-2:] != size:
                    tensor = F.interpolate(tensor, size, mode="bilinear", align_corners=self.align_corners)
                logits[name] = tensor[:, :, :height, :width]
        return logits

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        if self.fixed_size is not None:
            if (height, width) != self.fixed_size:
                only = "{}x{}".format(*self.fixed_size)
                raise ValueError(
                    f"expected images of {only} pixels, the only size that this {type(self.network).__name__} takes, got "
                    f"{height}x{width}; resize and crop the data to it, or predict by windows of this size with border=pad"
                )
            return height, width
        height, width = (
            -(-max(side, self.min_size) // self.size_divisor) * self.size_divisor for side in (height, width)
        )
        return (max(height, width), max(height, width)) if self.square else (height, width)

    def _named(self, output: Any) -> dict[str, Tensor]:
        """The logits and, if present, the auxiliary logits in the network's output."""
        found = output if isinstance(output, Mapping) else {"logits": getattr(output, "logits", output)}
        out = next((found[name] for name in ("out", "logits") if isinstance(found.get(name), Tensor)), None)
        aux = found.get("aux")
        if out is None:
            raise ValueError(
                f"expected a tensor, a mapping with 'out' or an object with .logits from {type(self.network).__name__}, "
                f"got {type(output).__name__}"
            )
        if aux is not None and not isinstance(aux, Tensor):
            raise ValueError(
                f"expected a tensor or None as 'aux' from {type(self.network).__name__}, got {type(aux).__name__}"
            )
        return {"out": out} if aux is None else {"out": out, "aux": aux}

    def _likely_sizes(self) -> list[tuple[int, int]]:
        """Heights and widths in pixels that the network was designed for."""
        from timm.layers.patch_embed import PatchEmbed  # only here: its import is slow

        layers = [layer for layer in self.network.modules() if isinstance(layer, PatchEmbed)]
        return [(layer.img_size[0], layer.img_size[1]) for layer in layers if layer.img_size is not None]

    def _learn_sizes(self) -> str | None:
        """Find the sizes that the network accepts. Returns the reason if it accepts none, else None."""
        divisor, reason = self.size_divisor, None
        for side in dict.fromkeys(-(-side // divisor) * divisor for side in SIDES):
            reason = refusal(self, (side, side))
            if reason is None:
                self.min_size = side
                if refusal(self, (side + divisor, side + divisor)):
                    self.size_divisor = side
                if refusal(self, (side, 2 * side)):
                    self.square = refusal(self, (2 * side, 2 * side)) is None
                    self.fixed_size = None if self.square else (side, side)
                return None
        for size in self._likely_sizes():
            self.fixed_size = size
            if refusal(self, size) is None:
                return None
        self.fixed_size = None
        return f"{type(self.network).__name__} accepted no image of up to {SIDES[-1]}x{SIDES[-1]} pixels: {reason}"

    def _freeze_unused(self) -> str | None:
        """Freeze the parameters that do not contribute to the logits. Returns the reason if that fails, else None."""
        reason = ""
        for side in (64, 256):
            try:
                unused = unused_parameters(self, self.fixed_size or (side, side))
            except ValueError as error:
                reason = str(error)
                continue
            for name in unused:
                self.get_parameter(name).requires_grad_(False)
            if unused:
                more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
                warnings.warn(
                    f"parameters of this {type(self.network).__name__} that reach no logits are not trained: "
                    f"{', '.join(unused[:3])}{more}",
                    stacklevel=3,
                )
            return None
        return f"{type(self.network).__name__} gave no gradient: {reason}"


def _named_sides(size: tuple[int, int] | None) -> list[tuple[str, int]]:
    return [] if size is None else [("fixed_size", side) for side in size]


def optional(module: str, install: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: Name of the module.
        install: Argument of ``pip install``, for the error message.

    Raises:
        ImportError: If the module is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"this network needs {error.name}: pip install {install}") from error
