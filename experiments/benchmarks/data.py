"""Images a second of each dataset's training pipeline, against decoding alone and torchvision's reference pipeline.

    python experiments/benchmarks/data.py --cityscapes path/to/cityscapes --coco_stuff path --ade20k path [--repetitions 7]

Every pipeline reads the same files, in rounds of shuffled order; they are few enough to be in the page cache. The
training process and each worker have one thread. A loader's epoch is timed whole, its workers being there already.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision.io
import yaml
from measure import KEEP, interleaved, milliseconds, ratio, row
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

import cpg_lightning.data
from cpg_lightning.data import CamVidDataModule, FolderDataModule, SegmentationDataModule
from cpg_lightning.data.base import one_thread
from cpg_lightning.data.dataset import FileDataset
from cpg_lightning.data.loading import SegmentationLoader, collate
from cpg_lightning.data.sampling import Draw

EXPERIMENTS = Path(__file__).parents[1]
WORKERS = (0, 1, 2)
FILES = 60  # of those whose labels are written in colours
ROUNDS = {"cityscapes": 8, "coco_stuff": 40, "ade20k": 150}  # one to two seconds each


class Reference(Dataset[Any]):
    """torchvision's reference training pipeline (references/segmentation, v2) with the recipe's crop and scales."""

    def __init__(self, dataset: FileDataset, data: SegmentationDataModule) -> None:
        self.files = dataset.files
        with Image.open(dataset.files[0][0]) as image:
            short = min(image.size)
        base = data.image_size if isinstance(data.image_size, int) else short
        self.pipeline = v2.Compose(
            [
                v2.RandomResize(round(base * data.scale[0]), round(base * data.scale[1])),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomCrop(
                    data.crop_size, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: data.ignore_index}
                ),
                v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __getitem__(self, item: Draw) -> Any:
        image, label = self.files[item.index]
        mode = torchvision.io.ImageReadMode
        return self.pipeline(
            tv_tensors.Image(torchvision.io.decode_image(str(image), mode.RGB)),
            tv_tensors.Mask(torchvision.io.decode_image(str(label), mode.UNCHANGED)),
        )


class Rounds(Sampler[Draw]):
    """Each image of a few once a round, each time with another seed."""

    def __init__(self, images: int, rounds: int) -> None:
        self.images = images
        self.rounds = rounds

    def __iter__(self) -> Iterator[Draw]:
        generator = np.random.default_rng(0)
        for number in range(self.rounds):
            for index in generator.permutation(self.images):
                yield Draw(int(index), (0, number))


def decoders(dataset: FileDataset, rounds: int) -> dict[str, Callable[[], object]]:
    """Ways to decode each image and label so many times."""
    mode = torchvision.io.ImageReadMode

    def opencv() -> None:
        for image, label in dataset.files * rounds:
            cv2.imdecode(np.fromfile(image, np.uint8), cv2.IMREAD_COLOR_RGB)
            cv2.imdecode(np.fromfile(str(label), np.uint8), cv2.IMREAD_UNCHANGED)

    def torchvision_io() -> None:
        for image, label in dataset.files * rounds:
            torchvision.io.decode_image(str(image), mode.RGB)
            torchvision.io.decode_image(str(label), mode.UNCHANGED)

    def pillow() -> None:
        for image, label in dataset.files * rounds:
            np.asarray(Image.open(image).convert("RGB"))
            np.asarray(Image.open(str(label)))

    return {"OpenCV": opencv, "torchvision.io": torchvision_io, "Pillow": pillow}


def loading(dataset: Dataset[Any], rounds: Rounds, workers: int) -> Callable[[], object]:
    """An epoch of a loader."""
    kind = SegmentationLoader if isinstance(dataset, FileDataset) else DataLoader
    loader = kind(
        dataset,
        batch_size=4,
        sampler=rounds,
        num_workers=workers,
        worker_init_fn=one_thread,
        collate_fn=collate if isinstance(dataset, FileDataset) else None,
        persistent_workers=workers > 0,
    )
    return lambda: [None for _ in loader]


def measure(name: str, root: str, repetitions: int) -> None:
    """The rows of a dataset."""
    recipe = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())["data"]
    data = getattr(cpg_lightning.data, recipe["class_path"])(**{**recipe["init_args"], "root": root})
    split = "train" if name != "ade20k" else "val"  # the samples of ADE20K are of its validation
    dataset = data.dataset(split, training=True)
    images, rounds = len(dataset), ROUNDS[name]
    sampler = Rounds(images, rounds)
    ours = {f"{workers} workers": loading(dataset, sampler, workers) for workers in WORKERS}
    theirs = {f"torchvision, {each}": loading(Reference(dataset, data), sampler, int(each[0])) for each in ours}
    decoding = decoders(dataset, rounds)
    seconds = interleaved({**decoding, **ours, **theirs}, repetitions)
    each = {call: [value / images / rounds for value in values] for call, values in seconds.items()}
    best = min(decoding, key=lambda call: statistics.median(each[call]))
    for workers in ours:
        mine, reference = each[workers], each[f"torchvision, {workers}"]
        row(
            f"{data.__class__.__name__}, {images} images",
            f"{best}: {milliseconds(each[best])}",
            workers,
            milliseconds(mine),
            f"{1 / statistics.median(mine):.1f}",
            ratio(mine, each[best]),
            ratio(reference, mine),
        )


def measure_colours(root: str, repetitions: int) -> None:
    """What labels in colours cost, of a dataset in CamVid's layout: its images once with each kind of label."""
    camvid = CamVidDataModule(root, crop_size=(360, 480))
    with tempfile.TemporaryDirectory() as folder:
        colours = [*camvid.palette, (0, 0, 0)]
        lines = [f"{value},{value},#{bytes(colour).hex()}" for value, colour in enumerate(colours[:-1])]
        (Path(folder) / "classes.csv").write_text("\n".join(["value,name,color", *lines, "11,,#000000"]) + "\n")
        (Path(folder) / "images").symlink_to(Path(root).absolute() / "train")
        for kind in ("grey", "colours"):
            (Path(folder) / kind).mkdir()
        pairs = camvid.files("train")[:FILES]
        (Path(folder) / "train.txt").write_text("\n".join(image.stem for image, _ in pairs))
        for _, label in pairs:
            with Image.open(str(label)) as opened:
                values = np.array(opened)
            Image.fromarray(values).save(Path(folder) / "grey" / Path(str(label)).name)
            Image.fromarray(np.array(colours, np.uint8)[values]).save(Path(folder) / "colours" / Path(str(label)).name)
        calls = {}
        for kind in ("grey", "colours"):
            labels, images = f"{kind}/{{name}}.png", "images/{name}.*"
            data = FolderDataModule(
                folder, (360, 480), images=images, labels=labels, label_colors=kind == "colours", num_workers=0
            )
            dataset = data.dataset("train", training=True)
            calls[f"{kind}, the pipeline"] = partial(each_item, dataset, dataset.__getitem__)
            calls[f"{kind}, read alone"] = partial(each_item, dataset, dataset.read)
        seconds = interleaved(calls, repetitions)
    for what in ("the pipeline", "read alone"):
        grey, coloured = ([value / FILES for value in seconds[f"{kind}, {what}"]] for kind in ("grey", "colours"))
        row(f"{FILES} images of 360x480, {what}", milliseconds(grey), ratio(coloured, grey))


def each_item(dataset: Dataset[Any], read: Callable[[int], object]) -> None:
    """Read each item once."""
    for index in range(len(dataset)):  # type: ignore[arg-type]
        read(index)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for dataset_name in ("cityscapes", "coco_stuff", "ade20k"):
        parser.add_argument(f"--{dataset_name}", help="root of the dataset, unpacked")
    parser.add_argument("--colours", help="root of CamVid: what labels in colours cost, alone")
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    if os.environ.get("MALLOC_TOP_PAD_") != KEEP["MALLOC_TOP_PAD_"]:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP})
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if options.colours:
        row("", "grey labels", "labels in colours by it")
        row(*["---"] * 3)
        measure_colours(options.colours, options.repetitions)
        sys.exit()
    row("", "decoding a pair", "workers", "pipeline, an image", "images a second", "by decoding", "torchvision by it")
    row(*["---"] * 7)
    for dataset_name in ("cityscapes", "coco_stuff", "ade20k"):
        if getattr(options, dataset_name):
            measure(dataset_name, getattr(options, dataset_name), options.repetitions)
