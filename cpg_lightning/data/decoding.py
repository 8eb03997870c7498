"""Decoding image and label files, with an error that names the file."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

# Not torchvision.io: as fast, but a PNG with a flipped bit brings the process down (0.29, measured).
AS_IT_IS = cv2.IMREAD_IGNORE_ORIENTATION  # labels know nothing of EXIF

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_GREY, _PALETTE = 0, 3
_TIFF_BITS = 258  # the tag of the bits a channel
_COLOUR_TYPES = {_GREY: "grey", 2: "RGB", _PALETTE: "palette", 4: "grey and alpha", 6: "RGBA"}


def decode_image(data: bytes, path: Path) -> np.ndarray:
    """An image file's content as uint8 (H, W, 3) RGB, whatever its colour model; ``path`` is for messages.

    Raises:
        ValueError: If it cannot be decoded, is damaged, or has more than 8 bits a channel, which would be clipped.
    """
    if data.startswith(_PNG):
        depth, _ = _checked_header(data, path)
        if depth == 16:
            raise ValueError(f"expected an image of 8 bits a channel, got 16: {path}; convert it")
    if data.startswith((_PNG, _JPEG)):
        return _decoded(data, cv2.IMREAD_COLOR_RGB, path)
    image = _opened(data, path)
    bits = image.tag_v2.get(_TIFF_BITS, 8) if isinstance(image, TiffImageFile) else 8
    if image.mode.startswith(("I", "F")) or np.max(bits) > 8:
        raise ValueError(f"expected an image of 8 bits a channel, got mode {image.mode}: {path}; convert it")
    return np.array(image.convert("RGB"))


def decode_label(data: bytes, path: Path) -> np.ndarray:
    """A label PNG's values as they are, uint8 (H, W); those of a palette PNG are its indices.

    Raises:
        ValueError: If it cannot be decoded, is damaged, or is no PNG of one 8-bit channel.
    """
    if not data.startswith(_PNG):
        _opened(data, path)
        raise ValueError(f"expected a label as PNG, got another format, which may have changed its values: {path}")
    depth, kind = _checked_header(data, path)
    if kind == _PALETTE:
        return np.array(_opened(data, path))
    if kind != _GREY or depth != 8:
        raise ValueError(
            f"expected a label of one 8-bit channel with a class in each pixel, got a PNG of {depth} bits a channel and "
            f"colour type {_COLOUR_TYPES.get(kind, kind)}: {path}; write the classes, not their colours, as 8-bit grey"
        )
    return _decoded(data, cv2.IMREAD_GRAYSCALE, path)


def _checked_header(png: bytes, path: Path) -> tuple[int, int]:
    """Bit depth and colour type of a PNG, all of whose checksums are right: decoders let some damage pass."""
    position = len(_PNG)
    while position + 12 <= len(png):
        length, name = struct.unpack_from(">I4s", png, position)
        end = position + 8 + length
        if end + 4 > len(png) or zlib.crc32(png[position + 4 : end]) != int.from_bytes(png[end : end + 4], "big"):
            break
        if name == b"IEND":
            return png[24], png[25]
        position = end + 4
    raise _unreadable("a truncated or damaged PNG", path)


def _decoded(data: bytes, flags: int, path: Path) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | AS_IT_IS)
    if pixels is None:
        _opened(data, path)  # which may know why
        raise _unreadable("one that is damaged", path)
    return pixels


def _opened(data: bytes, path: Path) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow raises each of them
        # Without the buffer's address, in which it names no file.
        reason = "no image" if "cannot identify" in str(error) else str(error)
        raise _unreadable(reason or "nothing", path) from error


def _unreadable(reason: str, path: Path) -> ValueError:
    return ValueError(f"expected a readable image file, got {reason}: {path}; replace or remove it")
