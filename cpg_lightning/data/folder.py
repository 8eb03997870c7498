"""A folder of images and labels of one's own."""

from pathlib import Path

from cpg_lightning.data.base import SegmentationDataModule, Split
from cpg_lightning.data.class_table import read_classes
from cpg_lightning.data.files import IMAGE_SUFFIXES


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
    line each. A test split is not needed unless it is asked for; images to be predicted need no labels: a split of
    ``images`` that ``labels`` has no folder of.

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

    def find_facts(self) -> None:
        """Read the classes, and look whether there is a test split, and labels for it."""
        self.class_names, self.palette, self.label_values, self.void_values = read_classes(self.root / "classes.csv")
        self.num_classes = len(self.class_names)
        if not (self._listed("test") or (self.root / "images" / "test").is_dir()):
            self.splits = ("train", "val")
        elif not self._labels_of("test").is_dir():
            self.unlabelled_splits = ("test",)

    def files(self, split: Split) -> list[tuple[Path, Path | None]]:
        """See :meth:`SegmentationDataModule.files`."""
        folders = ("images", "labels") if self._listed(split) else (f"images/{split}", f"labels/{split}")
        images = self.tree.named(folders[0], IMAGE_SUFFIXES)
        if self._listed(split):
            images = self.tree.listed(f"{split}.txt", images, folders[0])
        if split in self.unlabelled_splits:
            return self.tree.unpaired(images, folders[0])
        labels = self.tree.named(folders[1], (".png",))
        if self._listed(split):
            labels = {name: path for name, path in labels.items() if name in images}
        return self.tree.pairs(images, labels, *folders)

    def _listed(self, split: Split) -> bool:
        return (self.root / f"{split}.txt").is_file()

    def _labels_of(self, split: Split) -> Path:
        return self.root / "labels" if self._listed(split) else self.root / "labels" / split
