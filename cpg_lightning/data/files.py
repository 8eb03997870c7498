"""Finding and reading image and label files, with an error that names the file."""

from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 (H, W, 3) RGB.

    Raises:
        ValueError: If it cannot be read, or has more than 8 bits a channel, which Pillow would clip.
    """
    image = _open(path)
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"expected an image of 8 bits a channel, got mode {image.mode}: {path}; convert it")
    return np.asarray(image.convert("RGB"))


def read_label(path: Path) -> np.ndarray:
    """A label file's values as they are, uint8 (H, W).

    Raises:
        ValueError: If it cannot be read, or is no 8-bit image of one channel.
    """
    image = _open(path)
    if image.mode not in ("L", "P"):
        raise ValueError(
            f"expected a label of one 8-bit channel with a class in each pixel, got an image of mode {image.mode}: {path}"
        )
    return np.asarray(image)


def pairs(images: Path, labels: Path, layout: str) -> list[tuple[Path, Path]]:
    """Images and labels of the same stem in two folders, sorted.

    Args:
        images: Folder of PNG or JPEG images.
        labels: Folder of PNG labels.
        layout: The dataset's folders, drawn as a tree, for the errors.

    Raises:
        FileNotFoundError: If one of the folders is missing.
        ValueError: If there are no images, two images of one name, images without labels, or labels without
            images.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"expected the folder {folder}, {_nearest(folder)}; set the root to the folder that holds it. Expected layout:\n{layout}"
            )
    files = [path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    by_stem = {path.stem: path for path in files}
    labels_by_stem = {path.stem: path for path in labels.iterdir() if path.suffix.lower() == ".png"}
    if not by_stem:
        raise ValueError(f"expected PNG or JPEG images in {images}, got none. Expected layout:\n{layout}")
    for path in files:
        if by_stem[path.stem] != path:
            raise ValueError(f"expected one image a name, got both {path} and {by_stem[path.stem]}; remove one")
    for these, there, others in ((by_stem, labels, labels_by_stem), (labels_by_stem, images, by_stem)):
        alone = sorted(these.keys() - others.keys())
        if alone:
            raise ValueError(
                f"expected a partner in {there} for each of the {len(these)} files in {these[alone[0]].parent}, "
                f"got none for {len(alone)}, e.g. {these[alone[0]]}. Expected layout:\n{layout}"
            )
    return [(by_stem[stem], labels_by_stem[stem]) for stem in sorted(by_stem)]


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow raises each of them
        raise ValueError(f"expected a readable image file, got {error}: {path}; replace or remove it") from error


def _nearest(folder: Path) -> str:
    """What there is instead of a missing folder."""
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    if not parent.is_dir():
        return f"got a file in its way: {parent}"
    names = sorted(path.name for path in parent.iterdir())
    found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"got {parent} with {found or 'nothing'} in it"
