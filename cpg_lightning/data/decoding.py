"""Decoding image and label files, with an error that names the file."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

# Not torchvision.io: as fast, but a PNG with a flipped bit brings the process down (0.29, measured).
AS_IT_IS = cv2.IMREAD_IGNORE_ORIENTATION  # labels know nothing of EXIF

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_GREY, _PALETTE = 0, 3
_COLOUR_TYPES = {_GREY: "grey", 2: "RGB", _PALETTE: "palette", 4: "grey and alpha", 6: "RGBA"}


def decode_image(data: bytes, path: Path) -> np.ndarray:
    """An image file's content as uint8 (H, W, 3) RGB, whatever its colour model; ``path`` is for messages.

    Raises:
        ValueError: If it cannot be decoded, is truncated, or has more than 8 bits a channel, which would be clipped.
    """
    if data.startswith(_PNG) and _bit_depth(data) == 16:
        raise ValueError(f"expected an image of 8 bits a channel, got 16: {path}; convert it")
    if data.startswith((_PNG, _JPEG)):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | AS_IT_IS)
        if image is not None:
            return image
    opened = _opened(data, path)  # every other format, and why a file cannot be decoded
    if opened.mode.startswith(("I", "F")):
        raise ValueError(f"expected an image of 8 bits a channel, got mode {opened.mode}: {path}; convert it")
    return np.asarray(opened.convert("RGB"))


def decode_label(data: bytes, path: Path) -> np.ndarray:
    """A label PNG's values as they are, uint8 (H, W); those of a palette PNG are its indices.

    Raises:
        ValueError: If it cannot be decoded, is truncated, or is no PNG of one 8-bit channel.
    """
    if not data.startswith(_PNG):
        _opened(data, path)
        raise ValueError(f"expected a label as PNG, got another format, which may have changed its values: {path}")
    depth, kind = _bit_depth(data), _colour_type(data)
    if kind != _PALETTE and (kind != _GREY or depth != 8):
        raise ValueError(
            f"expected a label of one 8-bit channel with a class in each pixel, got a PNG of {depth} bits a channel and "
            f"colour type {_COLOUR_TYPES.get(kind, kind)}: {path}"
        )
    if kind == _GREY:
        label = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | AS_IT_IS)
        if label is not None:
            return label
    return np.asarray(_opened(data, path))


def _bit_depth(png: bytes) -> int:
    return png[24] if len(png) > 24 else 0


def _colour_type(png: bytes) -> int:
    return png[25] if len(png) > 25 else 0


def _opened(data: bytes, path: Path) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow raises each of them
        # Without the buffer's address, in which it names no file.
        reason = "no image" if "cannot identify" in str(error) else str(error)
        raise ValueError(
            f"expected a readable image file, got {reason or 'nothing'}: {path}; replace or remove it"
        ) from error
