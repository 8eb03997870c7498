"""Tiny datasets in the official layouts: random blocks of label values, images in a colour a value."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from cpg_lightning.data import ADE20KDataModule, CityscapesDataModule, COCOStuff10kDataModule, COCOStuffDataModule


def write_pair(image: Path, label: Path | None, values: Sequence[int], seed: int, size=(36, 48)) -> None:
    """An image and its label, PNG or .mat by its suffix, in blocks of 12x12 pixels."""
    blocks = np.random.default_rng(seed).choice(values, (size[0] // 12, size[1] // 12))
    values_of_pixels = blocks.repeat(12, axis=0).repeat(12, axis=1).astype(np.uint8)
    image.parent.mkdir(parents=True, exist_ok=True)
    colours = np.stack([values_of_pixels, 255 - values_of_pixels, values_of_pixels // 2], axis=-1)
    Image.fromarray(colours).save(image, quality=95)
    if label is None:
        return
    label.parent.mkdir(parents=True, exist_ok=True)
    if label.suffix == ".mat":
        savemat(label, {"S": values_of_pixels, "names": np.array([[str(n)] for n in range(182)], dtype=object)})
    else:
        Image.fromarray(values_of_pixels).save(label)


def values_of(module) -> list[int]:
    return [*module.label_values, *module.void_values]


def write_cityscapes(root: Path) -> Path:
    for split, city, number in (("train", "aachen", 3), ("train", "ulm", 1), ("val", "lindau", 2), ("test", "bonn", 2)):
        for index in range(number):
            name = f"{city}_{index:06d}_000019"
            image = root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
            label = root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png"
            write_pair(image, label, values_of(CityscapesDataModule), index)
            for other in ("instanceIds", "color", "labelTrainIds"):  # what else is there
                Image.new("I;16", (48, 36)).save(label.with_name(f"{name}_gtFine_{other}.png"))
    return root


def write_coco_stuff(root: Path, label_folder: str = "annotations") -> Path:
    for split, number in (("train2017", 4), ("val2017", 2)):
        for index in range(number):
            label = root / label_folder / split / f"{index:012d}.png"
            write_pair(root / "images" / split / f"{index:012d}.jpg", label, values_of(COCOStuffDataModule), index)
    (root / label_folder / "instances_val2017.json").write_text("{}")
    return root


def write_coco_stuff_10k(root: Path, suffix: str = ".mat") -> Path:
    names = [f"COCO_train2014_{index:012d}" for index in range(6)]
    for index, name in enumerate(names):
        label = root / "annotations" / f"{name}{suffix}"
        write_pair(root / "images" / f"{name}.jpg", label, values_of(COCOStuff10kDataModule), index)
    (root / "imageLists").mkdir()
    for list_name, listed in (("train", names[:4]), ("test", names[4:]), ("all", names)):
        (root / "imageLists" / f"{list_name}.txt").write_text("\n".join(listed) + "\n")
    return root


def write_ade20k(root: Path) -> Path:
    for folder, short, number in (("training", "train", 4), ("validation", "val", 2)):
        for index in range(1, number + 1):
            name = f"ADE_{short}_{index:08d}"
            label = root / "annotations" / folder / f"{name}.png"
            write_pair(root / "images" / folder / f"{name}.jpg", label, values_of(ADE20KDataModule), index)
    return root


CLASSES = "value,name,color\n3,background,#464650\n7,crack,#dc506e\n255,,\n"


def write_folder(root: Path) -> Path:
    for split, number in (("train", 4), ("val", 2)):
        for index in range(number):
            label = root / "labels" / split / f"{split}{index}.png"
            write_pair(root / "images" / split / f"{split}{index}.jpg", label, [3, 7, 255], index)
    (root / "classes.csv").write_text(CLASSES)
    return root


def zipped(folder: Path, archive: Path, prefix: str = "", method: int = zipfile.ZIP_DEFLATED) -> None:
    """Move a folder into a zip file."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "a", method) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, Path(prefix, path.relative_to(folder)))
    folder.rename(folder.with_name(f"{folder.name} was here"))


def write_cvat(root: Path) -> Path:
    """What CVAT 2 exports of a project as "Segmentation mask 1.1" with its images, whose subsets are Train and Validation."""
    colours = {"background": (0, 0, 0), "crack": (220, 80, 110), "moss": (61, 245, 61)}
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in colours.items()]
    for folder in ("ImageSets/Segmentation", "SegmentationClass", "SegmentationObject", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n")
    palette = np.array([*colours.values()], dtype=np.uint8)
    for subset, number in (("Train", 4), ("Validation", 2)):
        names = [f"{subset.lower()}_{index}" for index in range(number)]
        (root / "ImageSets" / "Segmentation" / f"{subset}.txt").write_text("\n".join(names) + "\n")
        for seed, name in enumerate(names):
            blocks = np.random.default_rng(seed).integers(0, 3, (3, 4)).repeat(12, axis=0).repeat(12, axis=1)
            Image.fromarray(palette[blocks]).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
            for kind in ("SegmentationClass", "SegmentationObject"):
                Image.fromarray(palette[blocks]).save(root / kind / f"{name}.png")
    return root


def write_roboflow(root: Path) -> Path:
    """What Roboflow exports as "Semantic Segmentation Masks"."""
    for folder, number in (("train", 4), ("valid", 2), ("test", 1)):
        (root / folder).mkdir(parents=True)
        (root / folder / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, crack\n2, moss\n")
        for index in range(number):
            name = f"wall-{index}_jpg.rf.{index:032x}"
            write_pair(root / folder / f"{name}.jpg", root / folder / f"{name}_mask.png", [0, 1, 2], index)
    (root / "README.dataset.txt").write_text("Exported.\n")
    return root
