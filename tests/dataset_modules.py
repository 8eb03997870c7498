"""Data modules of each dataset, on tiny files."""

import pytest
from layouts import (
    write_ade20k,
    write_cityscapes,
    write_coco_stuff,
    write_coco_stuff_10k,
    write_folder,
)

from cpg_lightning.data import (
    ADE20KDataModule,
    Augmentation,
    CamVidDataModule,
    CityscapesDataModule,
    COCOStuff10kDataModule,
    COCOStuffDataModule,
    FolderDataModule,
)

DATASETS = {
    "cityscapes": (CityscapesDataModule, write_cityscapes, (4, 2)),
    "coco_stuff": (COCOStuffDataModule, write_coco_stuff, (4, 2)),
    "coco_stuff_10k": (COCOStuff10kDataModule, write_coco_stuff_10k, (4, 2)),
    "ade20k": (ADE20KDataModule, write_ade20k, (4, 2)),
    "folder": (FolderDataModule, write_folder, (4, 2)),
}
OFFICIAL = [CityscapesDataModule, COCOStuffDataModule, COCOStuff10kDataModule, ADE20KDataModule, CamVidDataModule]

every_dataset = pytest.mark.parametrize("name", DATASETS)


def built(kind, root, **options):
    return kind(root, **{"augmentation": Augmentation((20, 28)), "batch_size": 2, "num_workers": 0, **options})


def written(name, folder, **options):
    kind, write, _ = DATASETS[name]
    return built(kind, write(folder / name), **options)


def samples_of(loader):
    return [
        (name, image.numpy().tobytes(), mask.numpy().tobytes())
        for batch in loader
        for name, image, mask in zip(batch["name"], batch["image"], batch["mask"], strict=True)
    ]
