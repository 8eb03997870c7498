"""Images a second of the training pipelines, beside decoding alone and torchvision's reference pipeline."""

import statistics
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
from measure import Options, apart, heading, interleaved, milliseconds, ratio, row
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

import cpg_lightning.data
from cpg_lightning.data import Augmentation, CamVidDataModule, FolderDataModule, SegmentationDataModule
from cpg_lightning.data.dataset import FileDataset
from cpg_lightning.data.loading import SegmentationLoader, collate
from cpg_lightning.data.sampling import SeededIndex
from cpg_lightning.data.workers import init_worker

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
        if isinstance(data.image_size, int):
            base = data.image_size
        else:
            base = short if data.image_size is None else min(data.image_size)
        self.pipeline = v2.Compose(
            [
                v2.RandomResize(*(round(base * scale) for scale in data.augmentation.scale)),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomCrop(
                    data.augmentation.crop_size,
                    pad_if_needed=True,
                    fill={tv_tensors.Image: 0, tv_tensors.Mask: 255},
                ),
                v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: SeededIndex | int) -> Any:
        image, label = self.files[item if isinstance(item, int) else item.index]
        mode = torchvision.io.ImageReadMode
        return self.pipeline(
            tv_tensors.Image(torchvision.io.decode_image(str(image), mode.RGB)),
            tv_tensors.Mask(torchvision.io.decode_image(str(label), mode.UNCHANGED)),
        )


class Rounds(Sampler[SeededIndex]):
    """Each image of a few once a round, each time with another seed."""

    def __init__(self, images: int, rounds: int) -> None:
        self.images = images
        self.rounds = rounds

    def __iter__(self) -> Iterator[SeededIndex]:
        generator = np.random.default_rng(0)
        for number in range(self.rounds):
            for index in generator.permutation(self.images):
                yield SeededIndex(int(index), (0, number))


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


def loading(dataset: Dataset[Any], rounds: Rounds, workers: int, device: torch.device) -> Callable[[], object]:
    """An epoch of a loader, with its batches on the device."""
    ours = isinstance(dataset, FileDataset)
    loader = (SegmentationLoader if ours else DataLoader)(
        dataset,
        batch_size=4,
        sampler=rounds,
        num_workers=workers,
        worker_init_fn=init_worker,
        collate_fn=collate if ours else None,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )

    def epoch() -> None:
        for batch in loader:
            image, mask = (batch["image"], batch["mask"]) if ours else batch
            image.to(device, non_blocking=True), mask.to(device, non_blocking=True)

    return epoch


def pipeline_rows(name: str, root: str, device: torch.device, repetitions: int) -> list[str]:
    """The rows of a dataset."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    recipe = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())["data"]
    arguments = {
        **recipe["init_args"],
        "root": root,
        "augmentation": Augmentation(**recipe["init_args"]["augmentation"]),
    }
    data = getattr(cpg_lightning.data, recipe["class_path"])(**arguments)
    split = "train" if name != "ade20k" else "val"  # the samples of ADE20K are of its validation
    dataset = data.dataset(split, training=True)
    images, rounds = len(dataset), ROUNDS[name]
    sampler = Rounds(images, rounds)
    ours = {f"{workers} workers": loading(dataset, sampler, workers, device) for workers in WORKERS}
    theirs = {
        f"torchvision, {each}": loading(Reference(dataset, data), sampler, int(each.split()[0]), device)
        for each in ours
    }
    decoding = decoders(dataset, rounds)
    seconds = interleaved({**decoding, **ours, **theirs}, repetitions, torch.device("cpu"))
    each = {call: [value / images / rounds for value in values] for call, values in seconds.items()}
    best = min(decoding, key=lambda call: statistics.median(each[call]))
    return [
        row(
            f"{type(data).__name__}, {images} images",
            f"{best}: {milliseconds(each[best])}",
            workers,
            milliseconds(each[workers]),
            f"{1 / statistics.median(each[workers]):.1f}",
            ratio(each[workers], each[best]),
            ratio(each[f"torchvision, {workers}"], each[workers]),
        )
        for workers in ours
    ]


def colour_rows(root: str, repetitions: int) -> list[str]:
    """What labels in colours cost, of a dataset in CamVid's layout: its images once with each kind of label."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    camvid = CamVidDataModule(root, Augmentation((360, 480)))
    pairs = camvid.files("train")[:FILES]
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        write_both_kinds(Path(folder), Path(root).absolute(), pairs, [*camvid.classes.palette, (0, 0, 0)])
        for kind in ("grey", "colours"):
            data = FolderDataModule(
                folder,
                Augmentation((360, 480)),
                images="images/{name}.*",
                labels=f"{kind}/{{name}}.png",
                label_colors=kind == "colours",
                num_workers=0,
            )
            dataset = data.dataset("train", training=True)
            calls[f"{kind}, the pipeline"] = partial(each_item, dataset, dataset.__getitem__)
            calls[f"{kind}, read alone"] = partial(each_item, dataset, dataset.read)
        seconds = interleaved(calls, repetitions, torch.device("cpu"))
    rows = []
    for what in ("the pipeline", "read alone"):
        grey, coloured = ([value / len(pairs) for value in seconds[f"{kind}, {what}"]] for kind in ("grey", "colours"))
        rows.append(row(f"{len(pairs)} images, {what}", milliseconds(grey), ratio(coloured, grey)))
    return rows


def write_both_kinds(
    folder: Path, root: Path, pairs: list[tuple[Path, Path | None]], colours: list[tuple[int, int, int]]
) -> None:
    """A dataset with the labels of another one in grey and in colours; the last colour is ignored."""
    lines = [f"{value},{value},#{bytes(colour).hex()}" for value, colour in enumerate(colours[:-1])]
    void = f"{len(lines)},,#{bytes(colours[-1]).hex()}"
    (folder / "classes.csv").write_text("\n".join(["value,name,color", *lines, void]) + "\n")
    (folder / "images").symlink_to(root / "train")
    (folder / "train.txt").write_text("\n".join(image.stem for image, _ in pairs))
    for kind in ("grey", "colours"):
        (folder / kind).mkdir()
    for _, label in pairs:
        with Image.open(str(label)) as opened:
            values = np.array(opened)
        name = Path(str(label)).name
        Image.fromarray(values).save(folder / "grey" / name)
        Image.fromarray(np.array(colours, np.uint8)[values]).save(folder / "colours" / name)


def each_item(dataset: Dataset[Any], read: Callable[[int], object]) -> None:
    """Read each item once."""
    for index in range(len(dataset)):  # type: ignore[arg-type]
        read(index)


def table(options: Options) -> Iterator[str]:
    """A row a dataset and number of workers, then what labels in colours cost."""
    cpu = torch.device("cpu")  # what the jobs run on; batches go to the device
    roots = {name: getattr(options, name) for name in ROUNDS if getattr(options, name)}
    if roots:
        yield "The same files are read in rounds of shuffled order, from the page cache; each process has one thread. A"
        yield "loader's epoch is timed whole, its workers being there already, and its batches go to the device."
        yield from heading(
            *("", "decoding a pair", "workers", "pipeline, an image", "images a second", "by decoding"),
            "torchvision's pipeline by it",
        )
    for name, root in roots.items():
        yield from apart(cpu, pipeline_rows, name, root, options.device, options.repetitions, keep=True)
    if options.root:
        yield from heading("", "grey labels", "labels in colours by it")
        yield from apart(cpu, colour_rows, options.root, options.repetitions, keep=True)
