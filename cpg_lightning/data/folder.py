"""A folder of images and labels of one's own."""

import io
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from cpg_lightning.data.base import SegmentationDataModule, Split
from cpg_lightning.data.class_table import EXAMPLE, read_classes
from cpg_lightning.data.decoding import decode_image
from cpg_lightning.data.files import IMAGE_SUFFIXES, nearest

EXIF_WITHIN = 1 << 16  # bytes: where a JPEG's EXIF is, if it has one


class FolderDataModule(SegmentationDataModule):
    """Images and label PNGs of your own, with the classes given by a small file.

    ::

        root/
            classes.csv
            images/{train,val,test}/any_name.jpg    (or PNG, BMP, TIFF, WebP)
            labels/{train,val,test}/any_name.png

    ``classes.csv`` has a line for each value of the labels, the classes in their order; one without a name is ignored::

        value,name,color
        0,background,#464650
        1,crack,#dc506e
        255,,

    Instead of split folders, ``train.txt``, ``val.txt`` and ``test.txt`` beside it may list the names of each split, a
    line each. There may be subfolders, the same for images and labels. A test split is not needed unless it is asked for,
    and images to be predicted need no labels: a split none of whose images has one.

    Arguments as in :class:`~cpg_lightning.data.SegmentationDataModule`.

    Raises:
        FileNotFoundError: If there is no ``classes.csv``.
        ValueError: If it is wrong; see :func:`~cpg_lightning.data.class_table.read_classes`.
    """

    layout = """\
root/
    classes.csv                 (lines: value,name,color)
    images/train/any_name.jpg   (also val/, test/)
    labels/train/any_name.png
    (or images/any_name.jpg, labels/any_name.png and lists of names train.txt, val.txt, test.txt)"""

    unknown_hint = "give the value a line in classes.csv, without a name if it is to be ignored"

    def find_facts(self) -> None:
        """Read the classes, and look which splits there are."""
        path = self.root / "classes.csv"
        if not path.is_file():
            raise FileNotFoundError(
                f"expected the file of classes {path}, {nearest(path)}. Expected layout:\n{self.layout}\n"
                f"with, for example, this classes.csv:\n{EXAMPLE}"
            )
        self.class_names, self.palette, self.label_values, self.void_values = read_classes(path)
        self.num_classes = len(self.class_names)
        if not (self._listed("test") or (self.root / "images" / "test").is_dir()):
            self.splits = ("train", "val")

    @staticmethod
    def decode_image(data: bytes, path: Path) -> np.ndarray:
        """As for other datasets, but an image that is shown rotated is refused: who knows what was labelled."""
        if b"Exif" in data[:EXIF_WITHIN]:
            with Image.open(io.BytesIO(data)) as image:
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if orientation != 1:
                raise ValueError(
                    f"expected an image that is stored as it is shown, got EXIF orientation {orientation}: {path}; save it "
                    "as it was labelled, without that"
                )
        return decode_image(data, path)

    def files(self, split: Split) -> list[tuple[Path, Path | None]]:
        """See :meth:`SegmentationDataModule.files`."""
        listed = self._listed(split)
        folders = ("images", "labels") if listed else (f"images/{split}", f"labels/{split}")
        images = self.tree.named(folders[0], IMAGE_SUFFIXES)
        labels = self.tree.named(folders[1], (".png",)) if (self.root / folders[1]).is_dir() else {}
        if listed:
            self._check_lists()
            images = self.tree.listed(f"{split}.txt", images, folders[0])
            labels = {name: path for name, path in labels.items() if name in images}
        return self.tree.pairs(images, labels, *folders) if labels else self.tree.unpaired(images, folders[0])

    def _listed(self, split: Split) -> bool:
        return (self.root / f"{split}.txt").is_file()

    def _check_lists(self) -> None:
        """Refuse an image that is in two splits."""
        names = {split: set(self.tree.lines(f"{split}.txt")) for split in self.splits if self._listed(split)}
        for one, other in combinations(names, 2):
            both = sorted(names[one] & names[other])
            if both:
                raise ValueError(
                    f"expected each image in one split, got {len(both)} both in {one}.txt and in {other}.txt of {self.root}, "
                    f"e.g. {both[0]}"
                )
