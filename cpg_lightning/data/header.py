"""The header of an image file: size, depth, channels and orientation, read without decoding the pixels."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
TIFF = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # the last two: BigTIFF
# Supported formats of Pillow. Some other formats of Pillow run programs. Image.open is not used, because its size limit
# applies to the whole process.
OTHERS: dict[str, tuple[tuple[bytes, ...], type[ImageFile]]] = {
    "TIFF": (tuple(TIFF), TiffImageFile),
    "BMP": ((b"BM",), BmpImageFile),
    "GIF": ((b"GIF87a", b"GIF89a"), GifImageFile),
    "WebP": ((b"RIFF",), WebPImageFile),
    "PNM": (tuple(b"P%d" % number for number in range(1, 7)), PpmImageFile),
    "JPEG 2000": ((b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP"), Jpeg2KImageFile),
    "AVIF": (tuple(b"\x00\x00\x00%cftypavi" % size for size in range(0x10, 0x40, 4)), AvifImageFile),
}

GREY, RGB, PALETTE, CMYK = "grey", "RGB", "palette", "CMYK"
WITH_ALPHA = {GREY: "grey and alpha", RGB: "RGBA", PALETTE: "palette and alpha"}
LAYOUTS = {  # channels of Pillow's modes; other modes, such as RGBX, have no defined conversion to RGB
    "1": GREY,
    "L": GREY,
    "LA": WITH_ALPHA[GREY],
    "P": PALETTE,
    "PA": WITH_ALPHA[PALETTE],
    "RGB": RGB,
    "RGBA": WITH_ALPHA[RGB],
    "YCbCr": RGB,
    "CMYK": CMYK,
}
DEPTHS = {"1": 1, "I": 32, "F": 32} | {mode: 16 for mode in ("I;16", "I;16L", "I;16B", "I;16N")}  # else 8

_PNG_LAYOUTS = {0: GREY, 2: RGB, 3: PALETTE, 4: WITH_ALPHA[GREY], 6: WITH_ALPHA[RGB]}
_ORIENTATION = 0x0112
RAW_PROFILE = "Raw profile type exif"  # text chunk that ImageMagick writes instead of a PNG's eXIf
_MOST_TEXT = 1 << 20  # largest inflated size of this text in bytes


class Header(NamedTuple):
    """The header of an image file.

    Attributes:
        kind: Format of the file.
        width: Number of columns, as stored.
        height: Number of rows, as stored.
        bits: Bits per channel.
        layout: Channels, e.g. ``"RGB"``.
        orientation: EXIF orientation, 1 to 8: how the image is rotated for display; 1 means not rotated.
    """

    kind: str
    width: int
    height: int
    bits: int
    layout: str
    orientation: int


def read_header(data: bytes) -> Header | None:
    """The header of an image file's content; None if it is not an image, or its header cannot be read.

    PNG, JPEG and TIFF headers take some microseconds.
    """
    try:
        if data.startswith(PNG):
            return _png(data)
        if data.startswith(JPEG):
            return _jpeg(data)
        if data[:4] in TIFF:
            return _tiff(data)
        image = opened(data)
        if image is None:
            return None
        bits = max(_depth(image), _depth_in(data))
        layout = LAYOUTS.get(image.mode, _bands(image))
        return Header(image.format or "image", *image.size, bits, layout, orientation_of(image.info.get("exif", b"")))
    except Exception:  # noqa: BLE001 - a damaged file can raise any error in Pillow's plugins
        return None  # the decoder reports the error


def opened(data: bytes) -> ImageFile | None:
    """Pillow's image of a file's content, before its pixels are read; None if the format is not in ``OTHERS``."""
    for starts, reader in OTHERS.values():
        if data.startswith(starts):
            return reader(io.BytesIO(data))
    return None


def orientation_of(exif: bytes) -> int:
    """The orientation in a block of EXIF; 1 if it is missing or cannot be read."""
    try:
        value = _tags(exif.removeprefix(b"Exif\0\0")).get(_ORIENTATION, (1,))[0]
    except (LookupError, ValueError, struct.error):
        return 1
    return value if 1 <= value <= 8 else 1


def orientation_in(image: Image.Image) -> int:
    """The orientation of a loaded Pillow image."""
    profile = image.info.get(RAW_PROFILE)
    if isinstance(profile, str) and "exif" not in image.info:
        return orientation_of(_of_profile(profile))
    return orientation_of(image.info.get("exif", b""))


def channels_of(image: Image.Image) -> tuple[int, str]:
    """Bits per channel and layout of a Pillow image; those of its file, if Pillow still has the information."""
    bits = _depth(image)
    if isinstance(image, Jpeg2KImageFile | AvifImageFile) and image.tile and image.fp is not None:  # not loaded yet
        position = image.fp.tell()
        image.fp.seek(0)
        bits = max(bits, _depth_in(image.fp.read()))
        image.fp.seek(position)
    if isinstance(image, TiffImageFile):
        bits = max(bits, *image.tag_v2.get(258, (8,)))
        channels = image.tag_v2.get(277, 1)
        if channels > len(image.getbands()):  # Pillow has dropped channels
            return bits, f"{channels} channels"
    if isinstance(image, ImageFile) and any("16" in _raw_mode(tile[3]) for tile in image.tile):
        bits = 16  # Pillow silently reads 16-bit colours as 8 bits
    return bits, LAYOUTS.get(image.mode, _bands(image))


def _raw_mode(arguments: object) -> str:
    """The raw mode among the arguments of Pillow's decoder; empty if there is none."""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _depth(image: Image.Image) -> int:
    """Bits per channel of a Pillow image, from its mode, or from the largest value of a PNM."""
    if isinstance(image, PpmImageFile) and image.tile:  # not loaded yet
        arguments = image.tile[0].args
        return int(arguments[-1]).bit_length() if isinstance(arguments, tuple) else DEPTHS.get(str(arguments), 8)
    return DEPTHS.get(image.mode, 8)


def _depth_in(data: bytes) -> int:
    """Bits per channel of a JPEG 2000 or AVIF file, which Pillow reduces to 8; 8 for other files."""
    if data.startswith(OTHERS["AVIF"][0]):
        flags = data[data.index(b"av1C") + 6]  # the codec's configuration
        return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    if data.startswith(OTHERS["JPEG 2000"][0]):
        size = data.index(b"\xff\x4f\xff\x51") + 4  # the size marker of the codestream
        (channels,) = struct.unpack_from(">H", data, size + 36)
        return max((each & 0x7F) + 1 for each in data[size + 38 : size + 38 + 3 * channels : 3])
    return 8


def _bands(image: Image.Image) -> str:
    """The channels of a Pillow image in an unsupported mode, as text."""
    number = len(image.getbands())
    return f"{number} channel{'s'[: number > 1]} ({image.mode})"


def _of_profile(text: str) -> bytes:
    """The EXIF block in a raw profile, which has a name, a length and hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.split()[2:]))
    except ValueError:
        return b""


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name of each chunk of a PNG, and start and end of its content. The last end may be beyond the file."""
    position = len(PNG)
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        yield name, position + 8, position + 8 + length
        position += 12 + length


def _png(data: bytes) -> Header:
    width, height, bits, kind = struct.unpack_from(">IIBB", data, 16)
    layout, orientation = _PNG_LAYOUTS.get(kind, f"colour type {kind}"), 1
    for name, start, end in png_chunks(data):
        if name == b"IDAT":
            continue
        if name == b"tRNS":
            layout = WITH_ALPHA.get(layout, layout)
        elif name == b"eXIf":
            orientation = orientation_of(data[start:end])
        elif name in (b"zTXt", b"tEXt") and data.startswith(RAW_PROFILE.encode() + b"\0", start):
            text = data[start + len(RAW_PROFILE) + 1 : end]
            text = zlib.decompressobj().decompress(text[1:], _MOST_TEXT) if name == b"zTXt" else text
            orientation = orientation_of(_of_profile(text.decode("ascii")))
    return Header("PNG", width, height, bits, layout, orientation)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker of each segment of a JPEG up to the first scan, and start and end of its content."""
    position = len(JPEG)
    while True:
        if data[position] != 0xFF:
            raise ValueError("no marker where one should be")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position + 4, position + 2 + length
        if marker == 0xDA:
            return
        position += 2 + max(2, length)


def _jpeg(data: bytes) -> Header | None:
    header, orientation = None, 1
    for marker, start, end in jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, start)
            layout = {1: GREY, 3: RGB, 4: CMYK}.get(channels, f"{channels} channels")
            header = Header("JPEG", width, height, bits, layout, 1)
        elif marker == 0xE1 and data.startswith(b"Exif\0\0", start):
            orientation = orientation_of(data[start:end])
    return header and header._replace(orientation=orientation)


def _tiff(data: bytes) -> Header:
    tags = _tags(data)
    (width,), (height,) = tags[256][:1], tags[257][:1]
    bits, channels, photometric = max(tags.get(258, (1,))), tags.get(277, (1,))[0], tags.get(262, (1,))[0]
    colours, layout = {0: (1, GREY), 1: (1, GREY), 2: (3, RGB), 3: (1, PALETTE), 5: (4, CMYK), 6: (3, RGB)}.get(
        photometric, (0, "")
    )
    if channels == colours + 1 and tags.get(338, (0,))[0] in (1, 2):  # the tag declares the extra channel as alpha
        layout = WITH_ALPHA.get(layout, "")
    elif channels != colours:
        layout = ""
    if max(tags.get(339, (1,))) in (2, 3):
        layout = ""  # signed or floating point
    orientation = tags.get(_ORIENTATION, (1,))[0]
    layout = layout or f"{channels} channel{'s'[: channels > 1]}"
    return Header("TIFF", width, height, bits, layout, orientation if 1 <= orientation <= 8 else 1)


def _tags(tiff: bytes) -> dict[int, tuple[int, ...]]:
    """The integers in the first directory of a TIFF or an EXIF block (which is a TIFF), at most 16 per tag."""
    order, big = TIFF[tiff[:4]], tiff[2:4] in (b"+\0", b"\0+")
    (first,) = struct.unpack_from(order + ("Q" if big else "I"), tiff, 8 if big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), tiff, first)
    first, size, entry = (first + 8, 20, "HHQ") if big else (first + 2, 12, "HHI")
    tags = {}
    for position in range(first, first + size * min(entries, 4096), size):
        tag, kind, count = struct.unpack_from(order + entry, tiff, position)
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter is None:
            continue
        values = f"{order}{min(count, 16)}{letter}"
        place = position + (12 if big else 8)
        if count * struct.calcsize(letter) > (8 if big else 4):
            (place,) = struct.unpack_from(order + ("Q" if big else "I"), tiff, place)
        if count:
            tags[tag] = struct.unpack_from(values, tiff, place)
    return tags
