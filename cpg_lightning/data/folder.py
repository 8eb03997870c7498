"""A folder of your own images and labels."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from cpg_lightning.data.augmentation import Augmentation
from cpg_lightning.data.class_info import ClassInfo
from cpg_lightning.data.class_table import EXAMPLE, read_classes
from cpg_lightning.data.color_labels import ColorLabels
from cpg_lightning.data.data_module import SegmentationDataModule
from cpg_lightning.data.decoding import MOST_PIXELS
from cpg_lightning.data.description import Split
from cpg_lightning.data.paths import IMAGE_SUFFIXES, describe_missing, expanded, normalize_name, walk_files

IMAGES, LABELS, LISTS = "images/{split}/{name}.*", "labels/{split}/{name}.png", "{split}.txt"


class FolderDataModule(SegmentationDataModule):
    """Your own images and label PNGs, with the classes in a small file.

    ::

        root/
            classes.csv
            images/{train,val,test}/any_name.jpg    (or PNG, BMP, TIFF, WebP)
            labels/{train,val,test}/any_name.png

    ``classes.csv`` has one line per label value, in the order of the classes. A value without a name is ignored::

        value,name,color
        0,background,#464650
        1,crack,#dc506e
        255,,

    Instead of split folders, the lists ``train.txt``, ``val.txt`` and ``test.txt`` beside ``classes.csv`` may name the
    images of each split, one per line. A training image that is listed n times gives n samples. Images and labels may
    have the same subfolders. The test split is needed only when it is used. A split for prediction needs no labels, but
    then none of its images may have one.

    Patterns describe other layouts, such as those of annotation tools. ``{name}`` is the common part of the paths of an
    image and its label, and may contain subfolders. ``.*`` at the end stands for any image suffix. All other characters
    are literal. A file that matches the pattern of the labels is not an image.

    Args:
        root: See :class:`~cpg_lightning.data.SegmentationDataModule`.
        augmentation: As in :class:`~cpg_lightning.data.SegmentationDataModule`.
        images: Pattern of the images' paths below the root.
        labels: Pattern of the labels' paths, e.g. ``{split}/{name}_mask.png``, or ``masks/{name}.png`` if the labels of all
            splits are in one folder.
        split_names: Possible names of each split in folders and lists, e.g. ``{"val": ["val", "valid",
            "validation"]}``; the name that exists is used. By default a split has its own name.
        lists: Pattern of the lists' paths. If the list of a split exists, ``{split}/`` is removed from ``images`` and
            ``labels``.
        classes: The file of classes, relative to the root or absolute. See
            :func:`~cpg_lightning.data.class_table.read_classes` for its formats.
        label_colors: Whether labels are RGB PNGs with the colours of the classes instead of their values.
        image_size: See :class:`~cpg_lightning.data.SegmentationDataModule`.
        train_with_val: As in that class, like all following arguments.
        batch_size: Images of one optimizer step.
        eval_batch_size: Images of one batch of each process in evaluation.
        num_workers: Worker processes per training process.
        test_split: Split for ``test``.
        predict_split: Split for ``predict``.
        predict_images: Images for ``predict`` instead of a split.
        max_pixels: Largest number of pixels of an image or a label.

    Raises:
        FileNotFoundError: If the file of classes does not exist.
        ValueError: If the file of classes or a pattern is wrong.
    """

    layout = """\
root/
    classes.csv                 (lines: value,name,color)
    images/train/any_name.jpg   (also val/, test/)
    labels/train/any_name.png
    (or images/any_name.jpg, labels/any_name.png and lists of names train.txt, val.txt, test.txt)"""

    unknown_hint = "add a line with the value to classes.csv, without a name to ignore it"

    def __init__(
        self,
        root: str | Path,
        augmentation: Augmentation,
        images: str = IMAGES,
        labels: str = LABELS,
        split_names: dict[str, list[str]] | None = None,
        lists: str = LISTS,
        classes: str = "classes.csv",
        label_colors: bool = False,
        image_size: int | tuple[int, int] | None = None,
        train_with_val: bool = False,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        test_split: Split | None = None,
        predict_split: Split | None = None,
        predict_images: str | None = None,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        for option, pattern in (("images", images), ("labels", labels)):
            if pattern.count("{name}") != 1 or re.search(r"\{(?!name\}|split\})", pattern):
                raise ValueError(
                    f"expected {option} to be a path with {{name}} once, and {{split}} if it is part of the path, e.g. "
                    f"{IMAGES}, got {pattern}"
                )
            if pattern.endswith("{name}"):
                raise ValueError(
                    f"expected {option} to end in a suffix, e.g. {pattern}.png, or in .* for any image suffix, got {pattern}"
                )
        if images == labels:
            raise ValueError(f"expected labels to be another pattern than images, got {labels} for both")
        if lists.count("{split}") != 1 or "{name}" in lists:
            raise ValueError(f"expected lists to be a path with {{split}} once, e.g. {LISTS}, got {lists}")
        if set(split_names or {}) - {"train", "val", "test"} or not all((split_names or {"val": ["val"]}).values()):
            raise ValueError(
                f"expected split_names to give train, val or test a list of names, e.g. {{val: [val, valid]}}, got {split_names}"
            )
        self.images, self.labels, self.lists = images, labels, lists
        self.split_names = split_names or {}
        self.class_file = classes
        self.label_colors = label_colors
        super().__init__(
            root,
            augmentation,
            image_size,
            train_with_val,
            batch_size,
            eval_batch_size,
            num_workers,
            test_split,
            predict_split,
            predict_images,
            max_pixels,
        )

    def read_metadata(self) -> None:
        """Read the classes, and find the existing splits."""
        if (self.images, self.labels, self.lists) != (IMAGES, LABELS, LISTS):
            self.layout = f"root/\n    {self.images}\n    {self.labels}\n    (or with a list of names {self.lists})"
        path = self.root / expanded(self.class_file)
        if not path.is_file():
            raise FileNotFoundError(
                f"expected the file of classes {path}, {describe_missing(path)}. Expected layout:\n{self.layout}\n"
                f"with, for example, this classes.csv:\n{EXAMPLE}"
            )
        self.class_table = read_classes(path, self.label_colors)
        self.classes = ClassInfo(self.class_table.names, self.class_table.palette)
        self.label_values, self.void_values = self.class_table.values, self.class_table.void
        self.unknown_hint = self.unknown_hint.replace("classes.csv", path.name)
        if not self._called("test"):
            self.splits = ("train", "val")

    def label_decoder(self) -> Callable[[bytes, Path], np.ndarray]:
        """See :meth:`SegmentationDataModule.label_decoder`."""
        return ColorLabels(self.class_table) if self.label_colors else super().label_decoder()

    def files(self, split: Split) -> list[tuple[Path, Path | None]]:
        """See :meth:`SegmentationDataModule.files`."""
        image_pattern, label_pattern = self._patterns(split)
        label_folder = _folder(label_pattern)
        labels = self._matching(label_pattern) if (self.root / label_folder).is_dir() else {}
        images = self._matching(image_pattern, set(labels.values()))
        names = None
        listed = self._list(split)
        if listed:
            self._check_lists()
            names = self.tree.read_list(listed, images, _folder(image_pattern), repeated=split == "train")
        elif "{split}" not in self.labels:  # the labels of the other splits are among them
            names = list(images)
        if names is not None:
            images, labels = ({name: files[name] for name in names if name in files} for files in (images, labels))
        if not labels:
            return self.tree.unpaired(images, _folder(image_pattern), names)
        return self.tree.pair_files(images, labels, _folder(image_pattern), label_folder, names, label_pattern)

    def explain_missing_labels(self, split: Split) -> str:
        """See :meth:`SegmentationDataModule.explain_missing_labels`."""
        pattern = self._patterns(split)[1]
        folder = self.root / _folder(pattern)
        looked = f"Expected label files {self.root / pattern}: "
        if not folder.is_dir():
            others = f"'{self.labels.replace(self.labels.split('/')[0], 'masks', 1)}'"
            return f"{looked}{describe_missing(folder)}; if the labels are elsewhere, set their pattern, e.g. --data.labels {others}. "
        kinds = Counter(path.suffix.lower() for path in self.tree.other_files.get(folder, []))
        counts = ", ".join(f"{count} {kind or 'without a suffix'}" for kind, count in kinds.most_common(4))
        reason = "; a label is a PNG: a JPEG changes the values" if kinds.keys() & {".jpg", ".jpeg"} else ""
        return f"{looked}{folder} has {counts + ' files' if counts else 'no files of these names'}{reason}. "

    def _matching(self, pattern: str, exclude: Collection[Path] = ()) -> Mapping[str, Path]:
        """The files that match a pattern, by name."""
        return self.tree.files_by_name(_folder(pattern), _suffixes(pattern), _prefix(pattern), exclude)

    def _patterns(self, split: Split) -> tuple[str, str]:
        """The patterns of the images and the labels of a split.

        Raises:
            FileNotFoundError: If the patterns are the same for all splits, and the split has no list.
        """
        called = self._called(split) or self.split_names.get(split, [split])[0]
        if self._list(split):
            return self.images.replace("{split}/", ""), self.labels.replace("{split}/", "")
        if "{split}" not in self.images:
            path = self.root / self.lists.replace("{split}", called)
            raise FileNotFoundError(
                f"expected the list {path}, because images={self.images} has no {{split}}, {describe_missing(path)}. "
                f"Expected layout:\n{self.layout}"
            )
        return self.images.replace("{split}", called), self.labels.replace("{split}", called)

    def _called(self, split: Split) -> str | None:
        """The name of a split in folders and lists; None if the split does not exist.

        Raises:
            ValueError: If several of its possible names exist.
        """
        names = self.split_names.get(split, [split])
        there = [name for name in names if self._is_list(name) or self._has_images(name)]
        if len(there) > 1:
            raise ValueError(
                f"expected one of {', '.join(names)} for the {split} split in {self.root}, got {', '.join(there)}"
            )
        return there[0] if there else None

    def _list(self, split: Split) -> str:
        """The path of a split's list below the root; empty if there is no list."""
        called = self._called(split)
        return self.lists.replace("{split}", called) if called and self._is_list(called) else ""

    def _is_list(self, name: str) -> bool:
        return (self.root / self.lists.replace("{split}", name)).is_file()

    def _has_images(self, name: str) -> bool:
        """Whether the folder of a split exists, or, if all splits share one folder, an image of the split."""
        pattern = self.images.replace("{split}", name)
        folder = self.root / _folder(pattern)
        if "{split}" not in self.images or "{split}" in _folder(self.images) or not folder.is_dir():
            return "{split}" in self.images and folder.is_dir()
        suffixes = tuple(suffix.lower() for suffix in _suffixes(pattern))
        found = (path.relative_to(folder).as_posix() for path in walk_files(folder))
        return any(path.startswith(_prefix(pattern)) and path.lower().endswith(suffixes) for path in found)

    def _check_lists(self) -> None:
        """Check that no image is in two splits."""
        lists = [self._list(split) for split in self.splits if self._list(split)]
        names = {each: {normalize_name(line) for line in self.tree.lines(each)} for each in lists}
        for one, other in combinations(names, 2):
            both = sorted(names[one] & names[other])
            if both:
                self.tree.wrong(
                    f"expected each image in one split, got {len(both)} both in {one} and in {other} of {self.root}, "
                    f"e.g. {both[0]}"
                )


def _folder(pattern: str) -> str:
    """The folder that is searched for a pattern."""
    return pattern.split("{name}")[0].rpartition("/")[0] or "."


def _prefix(pattern: str) -> str:
    """The prefix of file names that match a pattern."""
    return pattern.split("{name}")[0].rpartition("/")[2]


def _suffixes(pattern: str) -> Sequence[str]:
    """The possible suffixes of files that match a pattern."""
    after = pattern.split("{name}")[1]
    return [after.removesuffix(".*") + suffix for suffix in IMAGE_SUFFIXES] if after.endswith(".*") else [after]
