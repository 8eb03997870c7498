"""Both releases of COCO-Stuff in their official layouts."""

import io
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import ClassVar

import numpy as np

from cpg_lightning.data.class_info import ClassInfo
from cpg_lightning.data.class_table import official
from cpg_lightning.data.data_module import SegmentationDataModule
from cpg_lightning.data.decoding import MOST_PIXELS, decode_label
from cpg_lightning.data.description import Split
from cpg_lightning.data.paths import IMAGE_SUFFIXES

TABLE = official("coco_stuff")
OFFICIAL_IDS = 182  # ids of things and stuff, 11 of which have no masks; 0 is unlabeled
CONVERTED = "_labelTrainIds"  # suffix of labels that mmsegmentation writes beside the published ones


class COCOStuffDataModule(SegmentationDataModule):
    """COCO-Stuff 164k: 118287 training and 5000 validation photographs, 171 classes, 80 of things and 91 of stuff.

    ::

        root/
            images/{train,val}2017/000000000009.jpg
            annotations/{train,val}2017/000000000009.png, values 0..181 (the official id - 1) and 255 = unlabeled, ignored

    If the folder ``stuffthingmaps/`` exists, labels are read from it instead of ``annotations/``. The root may also be
    the folder of train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip. Other files in the label folder, such
    as JSON files and the labelTrainIds of mmsegmentation, are not read. There is no test split with labels: ``test``
    and ``predict`` use the validation images.

    There is no official palette. The palette is this package's own: 171 colours with large mutual distances in CIELAB.

    Arguments as in :class:`~cpg_lightning.data.SegmentationDataModule`.

    Source: Caesar et al., "COCO-Stuff: Thing and Stuff Classes in Context", 2018; ids and names of labels.txt
    (nightrome/cocostuff).
    """

    classes = ClassInfo(TABLE.names, TABLE.palette, absent_classes="skip_always")
    label_values, void_values = TABLE.values, TABLE.void
    layout = """\
root/
    images/train2017/000000000009.jpg        (also val2017/)
    annotations/train2017/000000000009.png   (or stuffthingmaps/train2017/)
    (or train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip)"""
    splits = ("train", "val")
    default_test_split = "val"
    official_counts: ClassVar[dict[Split, int]] = {"train": 118287, "val": 5000}
    archives: Mapping[str, tuple[str, str]] = {
        "train2017.zip": ("train2017", "images/train2017"),
        "val2017.zip": ("val2017", "images/val2017"),
        "stuffthingmaps_trainval2017.zip": ("", "annotations"),
    }
    unknown_hint = "the value 182 occurs in labels of COCO-Stuff 10k, whose values are larger by one: use COCOStuff10kDataModule for them"

    def read_metadata(self) -> None:
        """Find the name of the label folder."""
        self.label_folder = "stuffthingmaps" if (self.root / "stuffthingmaps").is_dir() else "annotations"
        self.archives = {**self.archives, "stuffthingmaps_trainval2017.zip": ("", self.label_folder)}

    def suspicions(self, pixels: np.ndarray) -> list[str]:
        """See :meth:`SegmentationDataModule.suspicions`: the values look like those of the other release."""
        return _of_the_other(pixels, self.void_values, "10k, whose values are larger by one", COCOStuff10kDataModule)

    def files(self, split: Split) -> list[tuple[Path, Path | None]]:
        """See :meth:`SegmentationDataModule.files`."""
        folders = f"images/{split}2017", f"{self.label_folder}/{split}2017"
        labels = self.tree.labels(folders[1], (".png",))
        published = {name: path for name, path in labels.items() if not name.endswith(CONVERTED)}
        return self.tree.pair_files(self.tree.files_by_name(folders[0], IMAGE_SUFFIXES), published, *folders)


class COCOStuff10kDataModule(SegmentationDataModule):
    """COCO-Stuff 10k, release 1.1: 9000 training and 1000 validation photographs, the 171 classes of the 164k.

    ::

        root/
            images/COCO_train2014_000000000077.jpg
            annotations/COCO_train2014_000000000077.mat, or .png, values 0..182: the official id, 0 = unlabeled, ignored
            imageLists/train.txt, test.txt

    The published test list is the validation split. The root may also be cocostuff-10k-v1.1.zip or its folder.

    Arguments as in :class:`~cpg_lightning.data.SegmentationDataModule`.

    Source: see :class:`COCOStuffDataModule`; nightrome/cocostuff10k.
    """

    classes = COCOStuffDataModule.classes
    # The official ids: one more than in the PNG of the 164k, where 255 is unlabeled.
    label_values = tuple(value + 1 for value in COCOStuffDataModule.label_values)
    void_values = tuple((value + 1) % 256 for value in COCOStuffDataModule.void_values)
    layout = """\
root/
    images/COCO_train2014_000000000077.jpg
    annotations/COCO_train2014_000000000077.mat   (or .png)
    imageLists/train.txt                          (also test.txt)
    (or cocostuff-10k-v1.1.zip)"""
    splits = ("train", "val")
    default_test_split = "val"
    official_counts: ClassVar[dict[Split, int]] = {"train": 9000, "val": 1000}
    unknown_hint = "the value 255 occurs in labels of COCO-Stuff 164k, whose values are smaller by one: use COCOStuffDataModule for them"
    archives: Mapping[str, tuple[str, str]] = {"cocostuff-10k-v1.1.zip": ("", "")}

    @staticmethod
    def decode_label(data: bytes, path: Path) -> np.ndarray:
        """Label values, uint8 (H, W), of a PNG, or of the field ``S`` of a .mat file of release 1.1.

        Raises:
            ValueError: If the file cannot be read, or is of release 1.0, which has other ids.
        """
        if path.suffix.lower() != ".mat":
            return decode_label(data, path)
        from scipy.io import loadmat, whosmat  # only here: few labels are .mat files

        try:
            for name, shape, _ in whosmat(io.BytesIO(data)):  # checked before the content is inflated
                if name in ("S", "names") and prod(shape) > MOST_PIXELS:
                    raise ValueError(f"{name} of {prod(shape)} values, more than {MOST_PIXELS}")
            content = loadmat(io.BytesIO(data), variable_names=["S", "names"])
            label, names = content["S"], content["names"]
        except Exception as error:  # SciPy's parser raises errors of many types
            raise ValueError(
                f"expected a .mat file with the labels S and their names, got {error!r}: {path}"
            ) from error
        if names.size != OFFICIAL_IDS:
            raise ValueError(
                f"expected labels of COCO-Stuff 10k v1.1, with {OFFICIAL_IDS} names, got {names.size}, as in v1.0, which has "
                f"other ids: {path}"
            )
        values = label.astype(np.int64)
        if label.ndim != 2 or ((values < 0) | (values > 255)).any() or (values != label).any():
            raise ValueError(
                f"expected labels S of two dimensions with ids from 0 to {OFFICIAL_IDS}, got others: {path}"
            )
        return np.ascontiguousarray(values, dtype=np.uint8)

    def suspicions(self, pixels: np.ndarray) -> list[str]:
        """See :meth:`SegmentationDataModule.suspicions`: the values look like those of the other release."""
        return _of_the_other(pixels, self.void_values, "164k, whose values are smaller by one", COCOStuffDataModule)

    def files(self, split: Split) -> list[tuple[Path, Path | None]]:
        """See :meth:`SegmentationDataModule.files`."""
        list_name = {"train": "imageLists/train.txt", "val": "imageLists/test.txt"}[split]
        found = self.tree.files_by_name("images", IMAGE_SUFFIXES)
        names = self.tree.read_list(list_name, found, "images", repeated=split == "train")
        labels = self.tree.labels("annotations", (".png",)) | self.tree.labels("annotations", (".mat",))
        images, listed = ({name: files[name] for name in names if name in files} for files in (found, labels))
        return self.tree.pair_files(images, listed, "images", "annotations", names)


def _of_the_other(
    pixels: np.ndarray, void: tuple[int, ...], release: str, module: type[SegmentationDataModule]
) -> list[str]:
    """A message if labels have values of the 11 things without masks, which no published label has.

    The first value of ``void`` is unlabeled; the others are these things.
    """
    found = [value for value in void[1:] if pixels[value]]
    if not found:
        return []
    return [
        (
            f"the labels have the values {', '.join(map(str, found))} of things that do not occur in the published labels: these "
            f"look like labels of COCO-Stuff {release}; use {module.__name__} for them"
        )
    ]
