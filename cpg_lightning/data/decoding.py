"""Decoding image and label files, with an error that names the file."""

import io
import re
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from cpg_lightning.data.header import (
    CMYK,
    GREY,
    PALETTE,
    PNG,
    RGB,
    WITH_ALPHA,
    Header,
    channels_of,
    jpeg_segments,
    opened,
    orientation_in,
    png_chunks,
    read_header,
)

# Not torchvision.io: as fast, but a PNG with a flipped bit brings the process down (0.29, measured).
AS_IT_IS = cv2.IMREAD_IGNORE_ORIENTATION  # images are turned here, and labels never

Picture = str | Path | Image.Image | np.ndarray | Tensor  # what is read as an image

MOST_PIXELS = 178_956_970  # Pillow's own limit, a quarter of a GiB of labels and half a GiB of RGB
READ = "grey, RGB, palette or CMYK, with or without alpha"

# How an image is turned by its EXIF orientation: transposed or not, then mirrored as by cv2.flip (0: upside down,
# 1: left to right, -1: both).
TURNS = {2: (False, 1), 3: (False, -1), 4: (False, 0), 5: (True, None), 6: (True, 1), 7: (True, -1), 8: (True, 0)}


def decode_image(data: bytes, path: Path) -> np.ndarray:
    """An image file's content as uint8 (H, W, 3) RGB, the way up that viewers show it.

    Grey, RGB, palette and CMYK of at most 8 bits a channel are read from every container; alpha is dropped, which is
    said once. Of an animation or of several pages the first is read.

    Args:
        data: The file's content.
        path: For messages.

    Raises:
        ValueError: If it cannot be decoded, is damaged, or has more than 8 bits a channel or other channels.
    """
    header = read_header(data)
    if header is None:
        raise _no_header(data, path)
    _check_channels(header.bits, header.layout, str(path))
    if header.kind == "PNG":
        check_png(data, path)
    if header.kind == "JPEG":
        check_jpeg(data, path)
    if header.kind in ("PNG", "JPEG"):
        return turned(_decoded(data, cv2.IMREAD_COLOR_RGB, path), header.orientation)
    pixels = np.array(_loaded(data, header, path).convert("RGB"))
    return pixels if header.kind == "TIFF" else turned(pixels, header.orientation)  # Pillow turns a TIFF itself


def decode_label(data: bytes, path: Path) -> np.ndarray:
    """A label PNG's values as they are, uint8 (H, W); those of a palette PNG are its indices.

    Raises:
        ValueError: If it cannot be decoded, is damaged, or is no PNG of one 8-bit channel.
    """
    header = label_header(data, path)
    if header.layout in (PALETTE, WITH_ALPHA[PALETTE]):
        return np.array(_loaded(data, header, path))
    if not (header.layout == GREY or (header.layout == WITH_ALPHA[GREY] and data[25] == 0)) or header.bits != 8:
        raise ValueError(
            f"expected a label of one 8-bit channel with a class in each pixel, got a PNG of {header.bits} bits a channel "
            f"and colour type {header.layout}: {path}; write the classes, not their colours, as 8-bit grey"
        )
    return _decoded(data, cv2.IMREAD_GRAYSCALE, path)


def decode_colors(data: bytes, path: Path) -> np.ndarray:
    """A label PNG's colours, uint8 (H, W, 3) RGB: of RGB, and of grey and palette, in which other tools save them too.

    Raises:
        ValueError: If it cannot be decoded, is damaged, has more than 8 bits a channel, or is no PNG.
    """
    header = label_header(data, path)
    if header.bits > 8:
        raise ValueError(
            f"expected a label in the classes' colours, 8 bits a channel, got {header.bits} bits: {path}; convert it"
        )
    return _decoded(data, cv2.IMREAD_COLOR_RGB, path)


def label_header(data: bytes, path: Path) -> Header:
    """The header of a label, which is a PNG all of whose checksums are right.

    Raises:
        ValueError: If it is none.
    """
    header = read_header(data)
    if not data.startswith(PNG):
        if header is None:
            raise _no_header(data, path)
        raise ValueError(
            f"expected a label as PNG, got another format ({header.kind}), which may have changed its values: {path}; "
            "export the labels as PNG"
        )
    check_png(data, path)
    if header is None:
        raise _no_header(data, path)
    return header


def read_image(image: Picture) -> np.ndarray:
    """What is to be predicted as uint8 (H, W, 3) RGB, the way up that viewers show it, by the rules of ``decode_image``.

    Args:
        image: A file, a picture of Pillow's, or values: an array, uint8 (H, W, 3) in RGB, (H, W, 1) or (H, W), or a tensor,
            uint8 (3, H, W). An array of four channels is refused: it does not say what the fourth is. Of a picture that was
            16 bits a channel and was already loaded as 8 by Pillow, nothing is left to see.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, has more than ``MOST_PIXELS``, more than 8 bits a channel or other channels.
    """
    if isinstance(image, str | Path):
        path = Path(image)
        if not path.is_file():
            what = "a folder; list its files" if path.is_dir() else "none"
            raise FileNotFoundError(f"expected an image file, got {what}: {path}")
        data = path.read_bytes()
        check_size(read_header(data), path)
        return decode_image(data, path)
    if isinstance(image, Image.Image):
        return _of_picture(image)
    if isinstance(image, np.ndarray):
        return _of_array(image)
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise ValueError(f"expected a tensor as uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
        return image.permute(1, 2, 0).contiguous().cpu().numpy()
    raise ValueError(
        f"expected an image as a path, a picture of Pillow's, a NumPy array or a tensor, got {type(image).__name__}"
    )


def _of_array(image: np.ndarray) -> np.ndarray:
    """An array of values as an image."""
    shape = image.shape
    channels = shape[2] if image.ndim == 3 else 1
    if image.dtype == np.uint8 and image.ndim in (2, 3) and channels in (1, 3) and image.size:
        return image if channels == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    remedy = "grey is (H, W) or (H, W, 1), and alpha and other channels are to be left out"
    if image.dtype != np.uint8:
        remedy = "convert it to 0..255, e.g. (255 * image).round().astype(np.uint8) from 0..1"
    elif image.ndim == 4:
        remedy = "give several images as a list"
    elif image.ndim == 3 and shape[0] in (1, 3):
        remedy = "np.moveaxis(image, 0, -1) puts the channels last"
    raise ValueError(f"expected an image as uint8 (H, W, 3), got {image.dtype} {shape}; {remedy}")


def check_size(header: Header | None, path: Path, max_pixels: int = MOST_PIXELS) -> None:
    """Refuse an image or a label of too many pixels, before it is decoded.

    Raises:
        ValueError: If it has more than ``max_pixels``.
    """
    if header is not None and header.width * header.height > max_pixels:
        raise ValueError(
            f"expected at most max_pixels={max_pixels} pixels, got {header.height}x{header.width} (height x width): {path}; "
            "remove it, or set a larger max_pixels if it is what it says"
        )


def check_png(data: bytes, path: Path) -> None:
    """Refuse a PNG with a wrong checksum: decoders let some damage pass.

    Raises:
        ValueError: If one is wrong, or its end is missing.
    """
    for name, start, end in png_chunks(data):
        if end + 4 > len(data) or zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            break
        if name == b"IEND":
            return
    raise unreadable("a truncated or damaged PNG", path)


def check_jpeg(data: bytes, path: Path) -> None:
    """Refuse a JPEG without an end: one that was cut off, or whose last part was overwritten by zeros.

    A JPEG has no checksums. Its decoder writes other damage that it notices to the standard error stream; see
    :func:`~cpg_lightning.check_data.check_data`.

    Raises:
        ValueError: If there is no end after the beginning of the pixels.
    """
    scan = max(end for _, _, end in jpeg_segments(data))
    if data.rfind(b"\xff\xd9", scan) < 0:
        raise unreadable("a JPEG without its end, cut off or overwritten", path)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (H, W, C) the way up that their EXIF orientation says."""
    if orientation == 1:
        return pixels
    transposed, mirrored = TURNS[orientation]
    pixels = cv2.transpose(pixels) if transposed else pixels
    return pixels if mirrored is None else cv2.flip(pixels, mirrored)


def unreadable(reason: str, path: Path | str) -> ValueError:
    """The error of a file that is no image, or not any more."""
    return ValueError(f"expected a readable image file, got {reason}: {path}; replace or remove it")


def _no_header(data: bytes, path: Path) -> ValueError:
    try:
        opened(data)
    except Exception as error:  # noqa: BLE001 - see read_header
        return _damaged(error, path)
    return unreadable("no image" if data else "an empty file", path)


def _of_picture(picture: Image.Image) -> np.ndarray:
    """A picture of Pillow's as an image."""
    what = f"a picture of {picture.width}x{picture.height} pixels"
    bits, layout = channels_of(picture)
    _check_channels(bits, layout, what)
    if picture.width * picture.height > MOST_PIXELS or not picture.width * picture.height:
        raise ValueError(f"expected from 1 to {MOST_PIXELS} pixels, got {what}")
    try:
        pixels = np.array(picture.convert("RGB"))  # which loads it; a TIFF is turned by that
    except Exception as error:  # see read_header
        raise _damaged(error, getattr(picture, "filename", "") or what) from error
    return pixels if isinstance(picture, TiffImageFile) else turned(pixels, orientation_in(picture))


def _check_channels(bits: int, layout: str, what: str) -> None:
    """Refuse what could only be shown by clipping or guessing; say once that alpha is dropped."""
    if bits > 8:
        channels = {GREY: "1 channel", RGB: "3 channels"}.get(layout, layout)
        raise ValueError(
            f"expected an image of at most 8 bits a channel, got {bits}: {channels} of {bits} bits in {what}; convert it"
        )
    if layout not in (GREY, RGB, PALETTE, CMYK, *WITH_ALPHA.values()):
        raise ValueError(
            f"expected an image in {READ}, got {layout} of {bits} bits: {what}; say which of them are the colours by "
            "converting it to RGB"
        )
    if layout in WITH_ALPHA.values():
        # Without the file's name, so that Python shows it once a process.
        warnings.warn(
            "images have an alpha channel, which is dropped: what is transparent keeps its colour", stacklevel=2
        )


def _decoded(data: bytes, flags: int, path: Path) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | AS_IT_IS)
    except cv2.error as error:  # its own limits
        reason = re.sub(r"\s+", " ", error.err or str(error)).strip()
        raise unreadable(f"one that OpenCV refuses ({reason})", path) from error
    if pixels is None:
        raise unreadable("one that is damaged", path)
    return pixels


def _loaded(data: bytes, header: Header, path: Path) -> Image.Image:
    """Pillow's image of a file's content, read, of the size that was checked: a file may state two."""
    try:
        image: ImageFile | None = PngImageFile(io.BytesIO(data)) if data.startswith(PNG) else opened(data)
        if image is None or sorted(image.size) != sorted((header.width, header.height)):  # a TIFF may be turned
            raise ValueError("one whose size is not what it says")
        image.load()
    except Exception as error:  # see read_header
        raise _damaged(error, path) from error
    return image


def _damaged(error: Exception, path: Path | str) -> ValueError:
    """The error of a file that Pillow cannot read. Without a buffer's address, in which an error names no file."""
    return unreadable(re.sub(r"<_io\.BytesIO[^>]*>", "it", str(error)) or "one that is damaged", path)
