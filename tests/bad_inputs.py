"""Kinds of bad input: a function that makes the input, the command, and the expected message.

``python tests/bad_inputs.py`` writes the table to experiments/bad_input.md. tests/test_bad_inputs.py runs each row. To add a
kind, add a row. ``make`` runs in an empty folder. In ``said``, ``...`` stands for any text.
"""

import io
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from layouts import write_ade20k, write_cityscapes, write_coco_stuff, write_coco_stuff_10k, write_folder, zipped
from PIL import Image

PAGE = Path(__file__).parent.parent / "experiments" / "bad_input.md"
BEGIN, END = "<!-- written by python tests/bad_inputs.py -->", "<!-- end -->"

# Abbreviations of options in the commands.
SHORT = {
    "MINE": '--data FolderDataModule --data.root mine --data.augmentation.crop_size "[20, 28]"',
    "MODEL": "--model.network LRASPP --model.criterion CrossEntropyCPGLoss --trainer.logger false",
}
CROP = '--data.augmentation.crop_size "[20, 28]"'
CHECK, FIT = "cpg check-data $MINE", "cpg fit $MINE $MODEL"


@dataclass(frozen=True)
class BadInput:
    """One kind of bad input.

    Attributes:
        kind: Description of the bad input, for the table.
        make: Function that writes the bad input to the current folder.
        said: The message of the command; ``...`` stands for any text.
        command: The command, with the abbreviations of ``SHORT``.
        status: The exit status of the command.
    """

    kind: str
    make: Callable[[], object]
    said: str
    command: str = CHECK
    status: int = 1


def folder(change: Callable[[Path], object] = lambda root: None) -> Callable[[], object]:
    """Make a dataset of four training and two validation images, and change it."""

    def make() -> None:
        change(write_folder(Path("mine")))

    return make


def rewritten(path: str, change: Callable[[bytes], bytes]) -> Callable[[], object]:
    """Make a dataset in which the content of one file is changed."""
    return folder(lambda root: (root / path).write_bytes(change((root / path).read_bytes())))


def saved(path: str, image: Image.Image, **options: object) -> Callable[[], object]:
    """Make a dataset in which one file is replaced with another image, possibly with another suffix."""

    def change(root: Path) -> None:
        for other in (root / path).parent.glob(f"{Path(path).stem}.*"):
            other.unlink()
        image.save(root / path, **options)

    return folder(change)


def rotated(path: str, mode: str = "RGB") -> Callable[[], object]:
    """Make a dataset in which one image has an EXIF rotation."""
    image = Image.new(mode, (48, 36), 3 if mode == "L" else 0)
    exif = image.getexif()
    exif[0x0112] = 6
    return saved(path, image, exif=exif)


def replaced(path: str, make: Callable[[Path], object]) -> Callable[[], object]:
    """Make a dataset in which one file is replaced."""

    def change(root: Path) -> None:
        (root / path).unlink()
        make(root / path)

    return folder(change)


def listed(train: bytes, val: bytes = b"val0\nval1\n") -> Callable[[], object]:
    """Make a dataset whose splits are given by lists."""

    def change(root: Path) -> None:
        for path in [*root.glob("*/*/*")]:
            path.rename(path.parent.parent / path.name)
        (root / "train.txt").write_bytes(train)
        (root / "val.txt").write_bytes(val)

    return folder(change)


def classes(content: str | bytes, name: str = "classes.csv") -> Callable[[], object]:
    """Make a dataset with another file of classes."""
    data = content.encode() if isinstance(content, str) else content
    return folder(lambda root: (root / name).write_bytes(data))


def config(text: str) -> Callable[[], object]:
    """Make a dataset and a configuration file beside it."""
    return folder(lambda root: Path("config.yaml").write_text(text))


def other_file(path: Path) -> None:
    """Make a file that the command has not written."""
    path.parent.mkdir(parents=True)
    path.write_text("")


def every(pattern: str, change: Callable[[Path], object]) -> Callable[[], object]:
    """Make a dataset in which all files of a pattern are changed."""
    return folder(lambda root: [change(path) for path in sorted(root.glob(pattern))])


def huge_png(width: int, height: int) -> bytes:
    """A PNG with few pixels whose header states a large size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def huge_gif() -> bytes:
    """A GIF whose frame header states a large size."""
    file = io.BytesIO()
    Image.new("P", (4, 4)).save(file, format="GIF")
    return file.getvalue().replace(bytes(4) + b"\4\0\4\0", bytes(4) + 4 * b"\xff")


def sparse(path: Path) -> None:
    """Make a sparse file of a gigabyte, which needs no disk space."""
    with path.open("wb") as file:
        file.truncate(10**9)


def noise(damage: Callable[[bytes], bytes]) -> Callable[[], object]:
    """Make a dataset in which one JPEG of random pixels is damaged."""

    def change(root: Path) -> None:
        path = root / "images" / "train" / "train0.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (36, 48, 3), np.uint8)).save(path)
        path.write_bytes(damage(path.read_bytes()))

    return folder(change)


def labels_of(root: Path, change: Callable[[np.ndarray], np.ndarray], pattern: str = "**/*_labelIds.png") -> None:
    """Change all label values of a dataset."""
    for path in root.glob(pattern):
        Image.fromarray(change(np.array(Image.open(path))).astype(np.uint8)).save(path)


def coco_10k_as_164k() -> None:
    root = write_coco_stuff(Path("coco"))
    labels_of(root, lambda values: np.where(values == 255, 0, values + 1), "annotations/*/*.png")


def bomb() -> None:
    root = write_ade20k(Path("unpacked"))
    (root / "images" / "validation" / "ADE_val_00000001.jpg").write_bytes(bytes(20_000_000))
    zipped(root, Path("zips/ADEChallengeData2016.zip"), "ADEChallengeData2016")


def broken_zip() -> None:
    zipped(write_ade20k(Path("unpacked")), Path("zips/ADEChallengeData2016.zip"), "ADEChallengeData2016")
    Path("zips/ADEChallengeData2016.zip").write_bytes(Path("zips/ADEChallengeData2016.zip").read_bytes()[:-50])


IMAGE, LABEL = "images/train/train0.jpg", "labels/train/train0.png"
RAMP = Image.fromarray(np.arange(48, dtype=np.uint8)[None].repeat(36, axis=0))
HEAD = "value,name,color\n"

IMAGES = [
    BadInput("a JPEG with an EXIF rotation", rotated(IMAGE), f"got EXIF orientation 6: mine/{IMAGE}"),
    BadInput("a PNG with an EXIF rotation", rotated("images/train/train0.png"), "got EXIF orientation 6: mine/images/train/train0.png"),
    BadInput("a TIFF with a rotation", rotated("images/train/train0.tif"), "got EXIF orientation 6: mine/images/train/train0.tif"),
    BadInput("a WebP with an EXIF rotation", rotated("images/train/train0.webp"), "got EXIF orientation 6: mine/images/train/train0.webp"),
    BadInput("a label with an EXIF rotation", rotated(LABEL, "L"), f"got EXIF orientation 6: mine/{LABEL}"),
    BadInput("an image of 16 bits per channel", saved("images/train/train0.png", Image.new("I;16", (48, 36))), "expected an image of at most 8 bits per channel, got 16: 1 channel of 16 bits in mine/images/train/train0.png; convert it"),
    BadInput("a PPM of 16 bits per channel", replaced("images/train/train0.jpg", lambda path: path.with_suffix(".ppm").write_bytes(b"P6 48 36 65535\n" + bytes(6 * 36 * 48))), "at most 8 bits per channel, got 16: 3 channels of 16 bits in mine/images/train/train0.ppm; convert it"),
    BadInput("an image of floating-point numbers", saved("images/train/train0.tif", Image.new("F", (48, 36))), "at most 8 bits per channel, got 32: 1 channel of 32 bits in mine/images/train/train0.tif"),
    BadInput("an image of four bands", saved("images/train/train0.tif", Image.new("RGBX", (48, 36))), "got 4 channels of 8 bits: mine/images/train/train0.tif; convert it to RGB, so that its colours are known"),
    BadInput("an image in CIE L\\*a\\*b\\*", saved("images/train/train0.tif", Image.new("LAB", (48, 36))), "got 3 channels of 8 bits: mine/images/train/train0.tif"),
    BadInput("a truncated JPEG", rewritten(IMAGE, lambda data: data[: len(data) // 2]), f"got a JPEG without an end, truncated or overwritten: mine/{IMAGE}; replace or remove it"),
    BadInput("a JPEG whose second half is zeros", rewritten(IMAGE, lambda data: data[: len(data) // 2] + bytes(len(data) // 2)), f"got a JPEG without an end, truncated or overwritten: mine/{IMAGE}"),
    BadInput("a JPEG with zeros in the middle, if the decoder notices", noise(lambda data: data[:-600] + bytes(598) + data[-2:]), f"expected a JPEG without damage, got one whose decoder says 'Corrupt JPEG data: ...': mine/{IMAGE}; replace it"),
    BadInput("a PNG with a flipped bit", rewritten(LABEL, lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:]), f"got a truncated or damaged PNG: mine/{LABEL}"),
    BadInput("a truncated PNG", rewritten(LABEL, lambda data: data[:-9]), f"got a truncated or damaged PNG: mine/{LABEL}"),
    BadInput("an empty file", rewritten(IMAGE, lambda data: b""), f"expected a readable image file, got an empty file: mine/{IMAGE}"),
    BadInput("a text file as an image", rewritten(IMAGE, lambda data: b"<html>"), f"expected a readable image file, got no image: mine/{IMAGE}"),
    BadInput("a GIF whose header states a huge size", replaced(IMAGE, lambda path: path.with_suffix(".gif").write_bytes(huge_gif())), "expected a readable image file, got Image size (4294836225 pixels) exceeds limit ...: mine/images/train/train0.gif; replace or remove it"),
    BadInput("a program as an image (PostScript)", rewritten(IMAGE, lambda data: b"%!PS-Adobe-3.0 EPSF-3.0\n"), f"got no image: mine/{IMAGE}"),
    BadInput("an image with too many pixels", rewritten(IMAGE, lambda data: huge_png(60000, 50000)), f"expected at most max_pixels=178956970 pixels, got 50000x60000 (height x width): mine/{IMAGE}; remove it, or set a larger max_pixels"),
    BadInput("a label with too many pixels", rewritten(LABEL, lambda data: huge_png(13500, 13500)), f"got 13500x13500 (height x width): mine/{LABEL}"),
    BadInput("a max_pixels that is too small for the images", folder(), f"expected at most max_pixels=999 pixels, got 36x48 (height x width): mine/{IMAGE}", f"{CHECK} --data.max_pixels 999"),
    BadInput("a file of a gigabyte", replaced(IMAGE, sparse), f"expected a file of at most 732605096 bytes, 4 for each of max_pixels=178956970, got 1000000000: mine/{IMAGE}"),
    BadInput("a broken link", replaced(IMAGE, lambda path: path.symlink_to("nowhere")), f"got a broken link: mine/{IMAGE}"),
    BadInput("a pipe", replaced(IMAGE, os.mkfifo), f"got a pipe, a socket or a device: mine/{IMAGE}"),
    BadInput("a folder named x.jpg", replaced(IMAGE, Path.mkdir), f"got a folder: mine/{IMAGE}"),
]  # fmt: skip

LABELS = [
    BadInput("a label of another size", saved(LABEL, Image.new("L", (10, 12), 3)), f"expected the label to have its image's size, 36x48 pixels (height x width), got 12x10: mine/{LABEL}"),
    BadInput("a value without a class", saved(LABEL, Image.new("L", (48, 36), 99)), f"expected label values 3, 7, 255, got [99]: mine/{LABEL}; add a line with the value to classes.csv, without a name to ignore it"),
    BadInput("labels that were once saved as JPEG", saved(LABEL, RAMP), f"got [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]: mine/{LABEL}; values between the classes come from a JPEG, or from resizing labels as images"),
    BadInput("a label in RGB", saved(LABEL, Image.new("RGB", (48, 36))), f"expected a label of one 8-bit channel ... colour type RGB: mine/{LABEL}"),
    BadInput("a label of 16 bits per channel", saved(LABEL, Image.new("I;16", (48, 36))), f"expected a label of one 8-bit channel ... got a PNG of 16 bits per channel and colour type grey: mine/{LABEL}"),
    BadInput("a JPEG with the suffix .png", saved(LABEL, Image.new("L", (48, 36), 3), format="JPEG"), f"expected a label as PNG, got another format (JPEG), which may have changed its values: mine/{LABEL}"),
    BadInput("a JPEG among the labels", every(LABEL, lambda path: path.rename(path.with_suffix(".jpg"))), "got none for 1, e.g. mine/images/train/train0.jpg; the pattern of the labels is labels/train/{name}.png; mine/labels/train/train0.jpg is a JPEG, which changes label values: export PNG"),
    BadInput("an image without a label", every(LABEL, Path.unlink), f"expected a partner in mine/labels/train for each of the 4 files in mine/images/train, got none for 1, e.g. mine/{IMAGE}"),
    BadInput("a label without an image", every(IMAGE, Path.unlink), f"got none for 1, e.g. mine/{LABEL}"),
    BadInput("two images with the same name", folder(lambda root: Image.new("RGB", (48, 36)).save(root / "images/train/train0.png")), "expected one file per name, got both mine/images/train/train0.jpg and mine/images/train/train0.png; remove one"),
    BadInput("labels in masks/", every("labels", lambda path: path.rename("mine/masks")), "expected labels for the train split, got none for its 4 images. Expected label files mine/labels/train/{name}.png: got ...mine, which contains classes.csv, images, masks; if the labels are elsewhere, set their pattern, e.g. --data.labels 'masks/{split}/{name}.png'"),
    BadInput("labels that are all .jpg", every("labels/*/*", lambda path: path.rename(path.with_suffix(".jpg"))), "expected labels for the train split, got none ... mine/labels/train has 4 .jpg files; a label is a PNG: a JPEG changes the values"),
    BadInput("no labels/val", every("labels/val", lambda path: path.rename("mine/elsewhere")), "expected labels for the val split, got none for its 2 images"),
    BadInput("training without labels", every("labels", lambda path: path.rename("mine/masks")), "expected images with labels for fit, got the train split of FolderDataModule in mine, which has none; its images can be predicted. Expected label files mine/labels/train/{name}.png", "cpg fit $MINE $MODEL --trainer.max_epochs 1"),
    BadInput("labels that are all ignored", every("labels/val/*", lambda path: Image.new("L", (48, 36), 255).save(path)), "expected labelled pixels, got none: each pixel of the val labels has a value that is ignored"),
    BadInput("labels in colours, without label_colors", every("labels/*/*", lambda path: Image.new("RGB", (48, 36), "#464650").save(path)), "export the classes, not their colours, as 8-bit grey"),
    BadInput("a colour without a class", every("labels/*/*", lambda path: Image.new("RGB", (48, 36), "#464651").save(path)), f"expected the colours of the class table, got #464651 in 1728 pixels (the nearest is background's #464650): mine/{LABEL}", f"{CHECK} --data.label_colors true"),
    BadInput("train IDs instead of label IDs of Cityscapes", lambda: labels_of(write_cityscapes(Path("cityscapes")), lambda values: values % 19), "suspicious: all label values are from 0 to 18: these look like train IDs", f"cpg check-data --data CityscapesDataModule --data.root cityscapes {CROP}"),
    BadInput("labels of COCO-Stuff 10k in COCO-Stuff 164k", coco_10k_as_164k, "suspicious: ... these look like labels of COCO-Stuff 10k, whose values are larger by one; use COCOStuff10kDataModule for them", f"cpg check-data --data COCOStuffDataModule --data.root coco {CROP}"),
]  # fmt: skip

FILES = [
    BadInput("a missing root", lambda: None, "expected the file of classes mine/classes.csv, got ..., which contains nothing"),
    BadInput("a file as the root", lambda: Path("mine").touch(), "expected the file of classes mine/classes.csv, got a file instead of a folder: ...mine"),
    BadInput("an unset environment variable", lambda: None, "expected the environment variable NOWHERE of the path ${NOWHERE}/mine to be set, got none", f"cpg check-data --data FolderDataModule --data.root $${{NOWHERE}}/mine {CROP}"),
    BadInput("no images/val", every("images/val", lambda path: path.rename("mine/images/validation")), "expected the folder mine/images/val, got ...mine/images, which contains train, validation"),
    BadInput("an empty images/val", every("*/val/*", Path.unlink), "expected images in mine/images/val, got none"),
    BadInput("a pattern without {name}", folder(), "expected images to be a path with {name} once, and {split} if it is part of the path, e.g. images/{split}/{name}.*, got images/*.jpg", f"{CHECK} --data.images images/*.jpg"),
    BadInput("a pattern without a suffix", folder(), "expected images to end in a suffix, e.g. images/{split}/{name}.png, or in .* for any image suffix, got images/{split}/{name}", f"{CHECK} --data.images images/{{split}}/{{name}}"),
    BadInput("two folders for one split", every("images/val", lambda path: (path.parent / "valid").mkdir()), "expected one of val, valid for the val split in mine, got val, valid", f'{CHECK} --data.split_names "{{val: [val, valid]}}"'),
    BadInput("an image in two lists", listed(b"train0\nval0\n"), "expected each image in one split, got 1 both in train.txt and in val.txt of mine, e.g. val0"),
    BadInput("a listed image that is missing", listed(b"train0\ntrain9\n"), "for each of the 2 names in mine/train.txt, got none for 1, e.g. 'train9'; names are without a suffix"),
    BadInput("an image that is listed twice for validation", listed(b"train0\n", b"val0\nval0\n"), "expected each name once in mine/val.txt, because an evaluation counts each image once, got 1 more than once, e.g. val0"),
    BadInput("a list that is not UTF-8", listed("train0\nfrüh\n".encode("latin-1")), "expected a list in UTF-8, got another encoding: mine/train.txt; save it again"),
    BadInput("an empty list", listed(b"\n"), "expected one name per line, got an empty list: mine/train.txt"),
    BadInput("a missing list of COCO-Stuff 10k", lambda: (write_coco_stuff_10k(Path("coco")) / "imageLists/train.txt").unlink(), "expected the list coco/imageLists/train.txt, got ...", f"cpg check-data --data COCOStuff10kDataModule --data.root coco {CROP}"),
    BadInput("a part of a published dataset", lambda: write_ade20k(Path("ade20k")), "expected the 20210 images of the train split as published, got 4", f"cpg check-data --data ADE20KDataModule --data.root ade20k {CROP}"),
    BadInput("a truncated zip file", broken_zip, "expected a readable zip file, got ...: zips/ADEChallengeData2016.zip; download it again", f"cpg check-data --data ADE20KDataModule --data.root zips {CROP}"),
    BadInput("a file in a zip file that inflates to a huge size", bomb, "expected a file of at most 16817216 bytes, 4 for each of max_pixels=10000, got 20000000: zips/ADEChallengeData2016.zip/ADE", f"cpg check-data --data ADE20KDataModule --data.root zips {CROP} --data.max_pixels 10000"),
    BadInput("no images to predict", folder(), "expected images to predict at ...nowhere, got ...", "cpg predict $MINE $MODEL --data.predict_images nowhere"),
    BadInput("an empty folder to predict", folder(lambda root: Path("empty").mkdir()), "expected images (.jpg, ...) to predict in empty, got none", "cpg predict $MINE $MODEL --data.predict_images empty"),
    BadInput("a list of images to predict that is not UTF-8", folder(lambda root: Path("some.txt").write_bytes(b"fr\xfch.jpg\n")), "expected a list in UTF-8, got another encoding: some.txt", "cpg predict $MINE $MODEL --data.predict_images some.txt"),
]  # fmt: skip

CLASSES = [
    BadInput("no classes.csv", every("classes.csv", Path.unlink), "expected the file of classes mine/classes.csv, got ..., which contains images, labels"),
    BadInput("semicolons", classes("value;name;color\n0;a;#000000\n1;b;#ff0000\n"), "expected the first line to be value,name,color, got value;name;color: mine/classes.csv; its values are separated by ';': save it with commas"),
    BadInput("UTF-16", classes((HEAD + "3,a,#000000\n7,b,#ff0000\n").encode("utf-16")), "expected comma-separated values in UTF-8, got UTF-16: mine/classes.csv"),
    BadInput("Latin-1", classes((HEAD + "3,früh,#000000\n").encode("latin-1")), "expected comma-separated values in UTF-8, got 'utf-8' codec can't decode ...: mine/classes.csv"),
    BadInput("an unclosed quote", classes(HEAD + '3,"a,#000000\n'), "expected comma-separated values in UTF-8, got unexpected end of data: mine/classes.csv"),
    BadInput("an empty line from a spreadsheet", classes(HEAD + "3,a,#000000\n7,b,#ff0000\n,,\n"), "got line 4 (nothing but commas: remove the line): mine/classes.csv"),
    BadInput("a duplicate value", classes(HEAD + "3,a,#000000\n7,b,#ff0000\n3,c,#ff00ff\n"), "expected each value once, got 3 more than once, in lines 2, 4: mine/classes.csv"),
    BadInput("a duplicate name", classes(HEAD + "3,a,#000000\n7,a,#ff0000\n"), "expected each name once, got a more than once, in lines 2, 3: mine/classes.csv"),
    BadInput("one class", classes(HEAD + "7,crack,#dc506e\n255,,\n"), "expected 2 or more classes, got 1: mine/classes.csv; name the background as a class"),
    BadInput("no class", classes(HEAD), "expected 2 or more classes, got 0: mine/classes.csv"),
    BadInput("a value above 255", classes(HEAD + "300,a,#000000\n"), "got line 2 (value 300): mine/classes.csv"),
    BadInput("a colour given by name", classes(HEAD + "3,a,red\n"), "got line 2 (colour 'red' instead of #rrggbb): mine/classes.csv"),
    BadInput("a comma in a name", classes(HEAD + "3,a, b,#000000\n"), "got line 2 (4 values for 3 columns): mine/classes.csv"),
    BadInput("no values", classes("name,color\na,#000000\nb,#ff0000\n"), "expected the first line to be value,name,color, got name,color: mine/classes.csv"),
    BadInput("a duplicate colour, for labels in colours", classes(HEAD + "3,a,#000000\n7,b,#000000\n"), "expected each colour once, got #000000 more than once, in lines 2, 3: mine/classes.csv", f"{CHECK} --data.label_colors true"),
    BadInput("a malformed line in a labelmap", classes("a:0,0,0::\nb:0,0::\n", "labelmap.txt"), "expected each line to be label:red,green,blue:parts:actions, got line 2 (b:0,0::): mine/labelmap.txt", f"{CHECK} --data.classes labelmap.txt --data.label_colors true"),
    BadInput("a labelmap for labels without colours", classes("a:0,0,0::\nb:9,0,0::\n", "labelmap.txt"), "expected the value of each class in the labels, got a file without values: mine/labelmap.txt; for labels in the classes' colours set --data.label_colors true", f"{CHECK} --data.classes labelmap.txt"),
]  # fmt: skip

NUMBERS = [
    BadInput("a crop of a terapixel", folder(), "expected crop_size to be at most max_pixels=178956970 pixels, got 1000000x1000000 (height x width)", f'{CHECK} --data.augmentation.crop_size "[1000000, 1000000]"'),
    BadInput("a crop without pixels", folder(), "expected crop_size to be a height and a width of 1 or more pixels, got (0, 28)", f'{CHECK} --data.augmentation.crop_size "[0, 28]"'),
    BadInput("a scale that is not a number", folder(), "expected scale to be two positive numbers, the smaller one first, got (nan, 1.0)", f'{CHECK} --data.augmentation.scale "[.nan, 1]"'),
    BadInput("an infinite scale", folder(), "expected scale to be two positive numbers, the smaller one first, got (1.0, inf)", f'{CHECK} --data.augmentation.scale "[1, .inf]"'),
    BadInput("a scale_step that is not a number", folder(), "expected scale_step to be positive and to fit between the scales (0.5, 2.0), got nan", f"{CHECK} --data.augmentation.scale_step .nan"),
    BadInput("a probability above 1", folder(), "expected horizontal_flip to be a probability, got 1.5", f"{CHECK} --data.augmentation.horizontal_flip 1.5"),
    BadInput("a probability that is not a number", folder(), "expected horizontal_flip to be a probability, got nan", f"{CHECK} --data.augmentation.horizontal_flip .nan"),
    BadInput("a share that is not a number", folder(), "expected max_class_share to be above 0 and at most 1, got nan", f"{CHECK} --data.augmentation.max_class_share .nan"),
    BadInput("a batch size of 0", folder(), "expected batch_size to be 1 or more, a whole number, got 0", f"{CHECK} --data.batch_size 0"),
    BadInput("true instead of a number", folder(), "Expected a <class 'int'>. Got value: True", f"{CHECK} --data.batch_size true", 2),
    BadInput("an unknown option", folder(), "Option 'batch_sise' is not accepted", f"{CHECK} --data.batch_sise 4", 2),
]  # fmt: skip

MODELS = [
    BadInput("a mistyped network", folder(), "got LRAASPP; did you mean LRASPP?", "cpg fit $MINE --model.network LRAASPP --model.criterion CrossEntropyCPGLoss", 2),
    BadInput("a mistyped option", folder(), "Option 'cpg_wieght' is not accepted; did you mean cpg_weight?", f"{FIT} --model.criterion.cpg_wieght 1", 2),
    BadInput("an unknown width", folder(), "expected a width of 18, 32 or 48 channels, got 5", f"{FIT} --model.network HRNetOCR --model.network.width 5"),
    BadInput("an even kernel size", folder(), "expected kernel_size to be an odd number of pixels from 3 to 15, got 4", f"{FIT} --model.criterion.kernel_size 4"),
    BadInput("a power that is not a number", folder(), "expected poly_power to be 0 or more and finite, got nan", f"{FIT} --model.poly_power .nan"),
    BadInput("a learning rate that is not a number", folder(), "expected model.optimizer.lr to be a finite number, got nan", f"{FIT} --model.optimizer SGD --model.optimizer.lr .nan"),
    BadInput("a negative weight", folder(), "expected aux_weight to be 0 or more and finite, got -1.0", f"{FIT} --model.aux_weight -1"),
    BadInput("another optimizer without its own learning rate", folder(), "expected a learning rate for SGD, got none: it would inherit 0.002 from AdamW, but its own default is 0.001; set --model.optimizer.lr", f"{FIT} --model.optimizer AdamW --model.optimizer.lr 0.002 --model.optimizer SGD"),
    BadInput("an unknown part of the model", folder(), "expected lr_factors to name a part of the model that has parameters, got network.head; the parts are network.backbone, network.classifier", f'{FIT} --model.lr_factors "{{network.head: 10}}"'),
    BadInput("a warm-up for a scheduler of torch", folder(), "expected warmup_steps to be 0 with StepLR, got 5: the linear warm-up belongs to poly, cosine, constant; set --model.warmup_steps 0", f"{FIT} --trainer.max_epochs 1 --model.warmup_steps 5 --model.lr_schedule StepLR --model.lr_schedule.step_size 9"),
    BadInput("a function instead of an optimizer", folder(), "expected model.optimizer to be a torch optimizer, got os.system", f'{FIT} --model.optimizer "{{class_path: os.system, init_args: {{command: ls}}}}"'),
    BadInput("a sum of losses with too few weights", folder(), "expected a weight for each of 2 losses, got 1", f'{FIT} --model.criterion "{{class_path: WeightedSum, init_args: {{losses: [{{class_path: DiceLoss}}, {{class_path: RMILoss}}], weights: [1.0]}}}}"'),
    BadInput("a missing file of weights", folder(), "expected a file of weights, found none at none.pth", f"{FIT} --model.weights none.pth"),
    BadInput("weights that contain other objects", folder(lambda root: Path("evil.pth").write_bytes(pickle.dumps(Path("x")))), "expected only tensors and plain values, got other objects in evil.pth, which could run code and are not read", f"{FIT} --model.weights evil.pth"),
    BadInput("weights of another network", folder(lambda root: torch.save({"a": torch.zeros(1)}, "a.pth")), "missing", f"{FIT} --model.weights a.pth"),
    BadInput("a missing checkpoint", folder(), "expected a checkpoint file, got none: none.ckpt", f"{FIT} --ckpt_path none.ckpt"),
    BadInput("a text file as a checkpoint", folder(lambda root: Path("a.ckpt").write_text("text")), "expected a file of weights, could not read a.ckpt", f"{FIT} --ckpt_path a.ckpt"),
    BadInput("weights instead of a checkpoint, to continue a training", folder(lambda root: torch.save({"pytorch-lightning_version": "2", "state_dict": {}}, "a.ckpt")), "got one without callbacks, epoch, global_step, loops, lr_schedulers, optimizer_states: a.ckpt; a file that contains only weights can start another training with --model.weights", f"{FIT} --ckpt_path a.ckpt"),
    BadInput("a prediction that would overwrite another file", folder(lambda root: other_file(Path("out/labels/val0.png"))), "expected to overwrite only predictions of this command, got out/labels/val0.png, which it did not write; choose another --output, or set --overwrite true", "cpg predict $MINE $MODEL --trainer.callbacks PredictionWriter --data.predict_images mine/images/val --output out"),
]  # fmt: skip

RUNS = [
    BadInput("a duplicate key in a file", config("model:\n  aux_weight: 1\n  aux_weight: 2\n"), "expected each key once, got 'aux_weight' more than once in one section", f"{FIT} --config config.yaml", 2),
    BadInput("endless aliases", config("a: &a [*a]\n"), "aliases that expand to more", f"{FIT} --config config.yaml", 2),
    BadInput("a missing configuration", folder(), "File does not exist", f"{FIT} --config none.yaml", 2),
    BadInput("0 accumulated batches", folder(), "expected trainer.accumulate_grad_batches to be 1 or more, got 0", f"{FIT} --trainer.accumulate_grad_batches 0"),
    BadInput("a validation after 0 batches", folder(), "expected trainer.val_check_interval to be a number of batches or a share of an epoch above 0, got 0", f"{FIT} --trainer.val_check_interval 0"),
    BadInput("a negative gradient clipping value", folder(), "expected trainer.gradient_clip_val to be 0 or more, got -1", f"{FIT} --trainer.gradient_clip_val -1"),
    BadInput("devices that are not a number", folder(), "expected options that the Trainer takes: `devices`", f"{FIT} --trainer.devices x --trainer.accelerator cpu"),
    BadInput("two callbacks with the same state", folder(), "expected callbacks of one class to monitor different scores, got two with the same", f'{FIT} --trainer.callbacks "[{{class_path: ModelCheckpoint}}, {{class_path: ModelCheckpoint}}]"'),
    BadInput("a callback that monitors a score of some validations", folder(), "expected EarlyStopping to monitor a score of every validation, got val/boundary_IoU, which only every 5th validation computes; set --model.boundary_metrics_every 1", f'{FIT} --trainer.callbacks "[{{class_path: EarlyStopping, init_args: {{monitor: val/boundary_IoU}}}}]"'),
    BadInput("a callback that monitors an unknown score", folder(), "expected EarlyStopping to monitor one of val/mIoU, ... got val/miou", f'{FIT} --trainer.callbacks "[{{class_path: EarlyStopping, init_args: {{monitor: val/miou}}}}]"'),
    BadInput("a batch size that does not divide evenly", folder(), "expected data.batch_size, the images of one step over all devices, to be divisible by 1 device times 3 accumulated batches, got 4. Set --trainer.accumulate_grad_batches 1, 2 or 4; or --data.batch_size 3 or 6", f"{FIT} --trainer.max_epochs 1 --data.batch_size 4 --trainer.accumulate_grad_batches 3"),
    BadInput("one image per device, for a network that needs two", folder(), "expected 2 or more images per device and batch, because DeepLabV3 does not accept a single image in training (Expected more than 1 value per channel when training, got input size torch.Size([1, 256, 1, 1])), got data.batch_size=4 divided by 1 device times 4 accumulated batches. Set --trainer.accumulate_grad_batches 1 or 2; or --data.batch_size 8", f"{FIT} --trainer.max_epochs 1 --model.network DeepLabV3 --data.batch_size 4 --trainer.accumulate_grad_batches 4"),
    BadInput("an epoch that ends within a step", folder(), "expected limit_train_batches, which overfit_batches and fast_dev_run set too, to be whole steps of 2 accumulated batches, got 1 batches; set it to 2", f"{FIT} --trainer.max_epochs 1 --data.batch_size 2 --trainer.accumulate_grad_batches 2 --trainer.limit_train_batches 1"),
    BadInput("a BatchSizeFinder", folder(), "expected no BatchSizeFinder: data.batch_size is the number of images of each step over all devices", f'{FIT} --trainer.max_epochs 1 --trainer.callbacks "[{{class_path: BatchSizeFinder}}]"'),
    BadInput("a LearningRateFinder", folder(), "expected no LearningRateFinder: the learning rate is an option of model.optimizer", f'{FIT} --trainer.callbacks "[{{class_path: LearningRateFinder}}]"'),
    BadInput("an empty path, e.g. from an unset shell variable", folder(), "expected a path, got ''; use . for the current folder", "cpg predict $MINE $MODEL --trainer.callbacks PredictionWriter --output="),
    BadInput("--overwrite without predict", folder(), "expected --overwrite with predict, got it with fit", f"{FIT} --overwrite true"),
]  # fmt: skip

BAD_INPUTS = {
    "images": IMAGES,
    "labels": LABELS,
    "files, folders and lists": FILES,
    "classes.csv": CLASSES,
    "options of the data": NUMBERS,
    "networks, weights, checkpoints and predictions": MODELS,
    "configurations and the Trainer": RUNS,
}


def table() -> str:
    """Write the kinds as Markdown."""
    lines = [f"`${name}` stands for `{options}`." for name, options in SHORT.items()]
    for title, rows in BAD_INPUTS.items():
        lines += ["", f"| {title} | command | message |", "|---|---|---|"]
        for row in rows:
            command, said = (text.replace("$$", "$").replace("|", "\\|") for text in (row.command, row.said))
            lines.append(
                f"| {row.kind} | `{command.removeprefix('cpg ')}` | {'' if row.status == 1 else f'exit status {row.status}: '}`{said}` |"
            )
    return "\n".join(lines)


def with_table(page: str) -> str:
    """Replace the table in the page."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
