"""Decoding of image and label files, with errors that name the file."""

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

# torchvision.io is not used: version 0.29 is as fast, but a PNG with a flipped bit crashes the process.
AS_IT_IS = cv2.IMREAD_IGNORE_ORIENTATION  # this module rotates images itself, and never rotates labels

Picture = str | Path | Image.Image | np.ndarray | Tensor  # accepted types of an image

MOST_PIXELS = 178_956_970  # limit of Pillow: about 0.17 GiB for a label and 0.5 GiB for an RGB image
READ = "grey, RGB, palette or CMYK, with or without alpha"

# Operations for each EXIF orientation: whether to transpose, then the code of cv2.flip (0: upside down, 1: left to right,
# -1: both).
TURNS = {2: (False, 1), 3: (False, -1), 4: (False, 0), 5: (True, None), 6: (True, 1), 7: (True, -1), 8: (True, 0)}


def decode_image(data: bytes, path: Path) -> np.ndarray:
    """Decode the content of an image file to uint8 (H, W, 3) RGB, in its displayed orientation.

    Grey, RGB, palette and CMYK images with at most 8 bits per channel are supported in every file format. Alpha is dropped,
    with one warning. Only the first frame of an animation, or the first page, is read.

    Args:
        data: The content of the file.
        path: Path of the file, for messages.

    Raises:
        ValueError: If the file cannot be decoded, is damaged, has more than 8 bits per channel, or has other channels.
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
        return apply_orientation(_decoded(data, cv2.IMREAD_COLOR_RGB, path), header.orientation)
    pixels = np.array(_loaded(data, header, path).convert("RGB"))
    return (
        pixels if header.kind == "TIFF" else apply_orientation(pixels, header.orientation)
    )  # Pillow rotates a TIFF itself


def decode_label(data: bytes, path: Path) -> np.ndarray:
    """Decode the values of a label PNG, uint8 (H, W). The values of a palette PNG are its indices.

    Raises:
        ValueError: If the file cannot be decoded, is damaged, or is not a PNG with one 8-bit channel.
    """
    header = label_header(data, path)
    if header.layout in (PALETTE, WITH_ALPHA[PALETTE]):
        return np.array(_loaded(data, header, path))
    if not (header.layout == GREY or (header.layout == WITH_ALPHA[GREY] and data[25] == 0)) or header.bits != 8:
        raise ValueError(
            f"expected a label of one 8-bit channel with a class in each pixel, got a PNG of {header.bits} bits per channel "
            f"and colour type {header.layout}: {path}; export the classes, not their colours, as 8-bit grey"
        )
    return _decoded(data, cv2.IMREAD_GRAYSCALE, path)


def decode_colors(data: bytes, path: Path) -> np.ndarray:
    """Decode the colours of a label PNG, uint8 (H, W, 3) RGB. Grey and palette PNGs, as some tools save them, are accepted.

    Raises:
        ValueError: If the file cannot be decoded, is damaged, has more than 8 bits per channel, or is not a PNG.
    """
    header = label_header(data, path)
    if header.bits > 8:
        raise ValueError(
            f"expected a label in the classes' colours with 8 bits per channel, got {header.bits} bits: {path}; convert it"
        )
    return _decoded(data, cv2.IMREAD_COLOR_RGB, path)


def label_header(data: bytes, path: Path) -> Header:
    """Read the header of a label, and check that the file is a PNG with correct checksums.

    Raises:
        ValueError: If the file is not a PNG, or is damaged.
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
    """Convert an image for prediction to uint8 (H, W, 3) RGB, in its displayed orientation, as :func:`decode_image` does.

    Args:
        image: A file, a Pillow image, an array, uint8 (H, W, 3) RGB, (H, W, 1) or (H, W), or a tensor, uint8 (3, H, W). An
            array with four channels raises an error, because the meaning of the fourth one is unknown. A 16-bit image that
            Pillow has already loaded with 8 bits cannot be detected.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the image cannot be read, or has more than ``MOST_PIXELS`` pixels, more than 8 bits per channel, or
            other channels.
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
        f"expected an image as a path, a Pillow image, a NumPy array or a tensor, got {type(image).__name__}"
    )


def _of_array(image: np.ndarray) -> np.ndarray:
    """Convert an array to an image."""
    shape = image.shape
    channels = shape[2] if image.ndim == 3 else 1
    if image.dtype == np.uint8 and image.ndim in (2, 3) and channels in (1, 3) and image.size:
        return image if channels == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    remedy = "grey is (H, W) or (H, W, 1); remove alpha and other channels"
    if image.dtype != np.uint8:
        remedy = "convert it to 0..255, e.g. (255 * image).round().astype(np.uint8) from 0..1"
    elif image.ndim == 4:
        remedy = "pass several images as a list"
    elif image.ndim == 3 and shape[0] in (1, 3):
        remedy = "np.moveaxis(image, 0, -1) puts the channels last"
    raise ValueError(f"expected an image as uint8 (H, W, 3), got {image.dtype} {shape}; {remedy}")


def check_size(header: Header | None, path: Path, max_pixels: int = MOST_PIXELS) -> None:
    """Check the number of pixels of an image or a label before it is decoded.

    Raises:
        ValueError: If the header states more than ``max_pixels`` pixels.
    """
    if header is not None and header.width * header.height > max_pixels:
        raise ValueError(
            f"expected at most max_pixels={max_pixels} pixels, got {header.height}x{header.width} (height x width): {path}; "
            "remove it, or set a larger max_pixels if the size is correct"
        )


def check_png(data: bytes, path: Path) -> None:
    """Check the checksums of a PNG, because decoders ignore some damage.

    Raises:
        ValueError: If a checksum is wrong, or the end of the file is missing.
    """
    for name, start, end in png_chunks(data):
        if end + 4 > len(data) or zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            break
        if name == b"IEND":
            return
    raise unreadable("a truncated or damaged PNG", path)


def check_jpeg(data: bytes, path: Path) -> None:
    """Check that a JPEG is complete. The end is missing if the file was truncated, or overwritten with zeros.

    A JPEG has no checksums. The decoder writes messages about other damage to the standard error stream, which
    :func:`~cpg_lightning.check_data.check_data` collects.

    Raises:
        ValueError: If no end marker follows the start of the pixels.
    """
    scan = max(end for _, _, end in jpeg_segments(data))
    if data.rfind(b"\xff\xd9", scan) < 0:
        raise unreadable("a JPEG without an end, truncated or overwritten", path)


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate stored pixels (H, W, C) to their displayed orientation."""
    if orientation == 1:
        return pixels
    transposed, mirrored = TURNS[orientation]
    pixels = cv2.transpose(pixels) if transposed else pixels
    return pixels if mirrored is None else cv2.flip(pixels, mirrored)


def unreadable(reason: str, path: Path | str) -> ValueError:
    """Build the error for a file that is not an image, or is damaged."""
    return ValueError(f"expected a readable image file, got {reason}: {path}; replace or remove it")


def _no_header(data: bytes, path: Path) -> ValueError:
    try:
        opened(data)
    except Exception as error:  # noqa: BLE001 - see read_header
        return _damaged(error, path)
    return unreadable("no image" if data else "an empty file", path)


def _of_picture(picture: Image.Image) -> np.ndarray:
    """Convert a Pillow image to an image."""
    what = f"a picture of {picture.width}x{picture.height} pixels"
    bits, layout = channels_of(picture)
    _check_channels(bits, layout, what)
    if picture.width * picture.height > MOST_PIXELS or not picture.width * picture.height:
        raise ValueError(f"expected from 1 to {MOST_PIXELS} pixels, got {what}")
    try:
        pixels = np.array(picture.convert("RGB"))  # this loads the pixels, and rotates a TIFF
    except Exception as error:  # see read_header
        raise _damaged(error, getattr(picture, "filename", "") or what) from error
    return pixels if isinstance(picture, TiffImageFile) else apply_orientation(pixels, orientation_in(picture))


def _check_channels(bits: int, layout: str, what: str) -> None:
    """Check that the channels convert to 8-bit RGB without clipping or guessing. Warn once about dropped alpha."""
    if bits > 8:
        channels = {GREY: "1 channel", RGB: "3 channels"}.get(layout, layout)
        raise ValueError(
            f"expected an image of at most 8 bits per channel, got {bits}: {channels} of {bits} bits in {what}; convert it"
        )
    if layout not in (GREY, RGB, PALETTE, CMYK, *WITH_ALPHA.values()):
        raise ValueError(
            f"expected an image in {READ}, got {layout} of {bits} bits: {what}; convert it to RGB, so that its colours are known"
        )
    if layout in WITH_ALPHA.values():
        # Without the name of the file, so that Python shows the warning once per process.
        warnings.warn(
            "images have an alpha channel, which is dropped: transparent pixels keep their colour", stacklevel=2
        )


def _decoded(data: bytes, flags: int, path: Path) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | AS_IT_IS)
    except cv2.error as error:  # for example OpenCV's own size limits
        reason = re.sub(r"\s+", " ", error.err or str(error)).strip()
        raise unreadable(f"one that OpenCV refuses ({reason})", path) from error
    if pixels is None:
        raise unreadable("one that is damaged", path)
    return pixels


def _loaded(data: bytes, header: Header, path: Path) -> Image.Image:
    """Load a file with Pillow, and check that its size is that of the header, because a file may state two sizes."""
    try:
        image: ImageFile | None = PngImageFile(io.BytesIO(data)) if data.startswith(PNG) else opened(data)
        if image is None or sorted(image.size) != sorted((header.width, header.height)):  # a TIFF may be rotated
            raise ValueError("one whose size differs from its header")
        image.load()
    except Exception as error:  # see read_header
        raise _damaged(error, path) from error
    return image


def _damaged(error: Exception, path: Path | str) -> ValueError:
    """Build the error for a file that Pillow cannot read. The address of the buffer in Pillow's message is removed."""
    return unreadable(re.sub(r"<_io\.BytesIO[^>]*>", "it", str(error)) or "one that is damaged", path)
