"""What a dataset and a data module of segmentation are."""

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import albumentations as A
import cv2
import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cpg_lightning.data.files import read_image, read_label
from cpg_lightning.data.sampling import Draw, EvaluationSampler, TrainingLoader, TrainingSampler
from cpg_lightning.data.transforms import evaluation_pipeline, training_pipeline

Split = Literal["train", "val", "test"]
UNKNOWN = 254  # in a label table: a value that the dataset does not have


class SegmentationDataset(Dataset[dict[str, Any]], ABC):
    """Images with labels; a subclass knows how many there are and reads them.

    In training an item is augmented by the pipeline, image and mask together; in evaluation the pipeline sees the image
    alone and the mask keeps its own size.

    Args:
        pipeline: What is done to an image.
        training: Whether items are for training.
    """

    def __init__(self, pipeline: A.Compose, training: bool) -> None:
        self.pipeline = pipeline
        self.training = training

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """The image, uint8 (H, W, 3) RGB, the mask, uint8 (H, W) of classes or ``ignore_index``, and the image's name."""

    def __getitem__(self, item: int | Draw) -> dict[str, Any]:
        """One image, uint8 (3, H, W), its mask, int64 (H, W), and its name.

        Args:
            item: The index, in training with the seed of its augmentation, which is otherwise always the same.
        """
        draw = item if isinstance(item, Draw) else Draw(item, ())
        image, mask, name = self.read(draw.index)
        if self.training:
            # A stream of its own for each sample: the crops depend neither on the worker nor on the number of workers.
            # The 1 keeps it apart from the sampler's: NumPy takes a seed as if zeros followed.
            generator = np.random.default_rng([*draw.seed, draw.index, 1])
            self.pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
            image, mask = self.pipeline(image=image, mask=mask).values()
        else:
            image = self.pipeline(image=image)["image"]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "mask": torch.from_numpy(mask.astype(np.int64)),
            "name": name,
        }


class FileDataset(SegmentationDataset):
    """Image files with label files.

    Args:
        files: Path of each image with that of its label.
        label_table: The class, ``ignore_index`` or ``UNKNOWN`` for each of the 256 values of a label file, uint8.
        pipeline: See :class:`SegmentationDataset`.
        training: See :class:`SegmentationDataset`.
    """

    def __init__(
        self, files: Sequence[tuple[Path, Path]], label_table: np.ndarray, pipeline: A.Compose, training: bool
    ) -> None:
        super().__init__(pipeline, training)
        self.files = files
        self.label_table = label_table

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """See :meth:`SegmentationDataset.read`.

        Raises:
            ValueError: For a file that cannot be read, a label that is no 8-bit image of one channel or of another
                size than its image, and a label value that the dataset does not have.
        """
        image_path, label_path = self.files[index]
        image, label = read_image(image_path), read_label(label_path)
        if label.shape != image.shape[:2]:
            raise ValueError(
                f"expected the label to have its image's size, {image.shape[0]}x{image.shape[1]} pixels (height x width), "
                f"got {label.shape[0]}x{label.shape[1]}: {label_path} for {image_path}"
            )
        mask = self.label_table[label]
        if (mask == UNKNOWN).any():
            known = np.flatnonzero(self.label_table != UNKNOWN)
            raise ValueError(
                f"expected label values from {known.min()} to {known.max()}, got {np.unique(label[mask == UNKNOWN])[:10].tolist()}: "
                f"{label_path}; is this the dataset that the data module is for?"
            )
        return image, mask, image_path.stem


class SegmentationDataModule(L.LightningDataModule, ABC):
    """Loaders over image and label files; a subclass states its classes and lists the files of a split.

    A batch is ``{"image": uint8 (B, 3, H, W) RGB, "mask": int64 (B, H, W), "name": list of B}``. Training images are
    augmented and padded to the crop size (image 0, mask ``ignore_index``); in evaluation the mask keeps the label
    file's own size. It works without a Trainer too: after ``setup(stage)`` the loaders give the same batches, and each
    new iteration of the training loader is the next epoch. Training samples depend on the seed given to
    ``lightning.seed_everything``, on the epoch and on the image, not on the number of workers or processes.

    Args:
        root: Folder of the dataset.
        crop_size: Height and width of training images in pixels.
        image_size: Height and width in pixels that images are resized to, before the random scale in training, and in
            evaluation; each image's own size by default.
        scale: Smallest and largest random scale in training.
        horizontal_flip: Probability of a flip in training.
        photometric: Whether brightness, contrast, saturation and hue are distorted in training.
        batch_size: Images a step and process in training.
        eval_batch_size: Images a step and process in evaluation; more than 1 needs labels of one size.
        num_workers: Processes that load images; 0 loads them in the training process.
        predict_split: Split that ``predict`` takes.

    Attributes:
        num_classes: Number of classes.
        ignore_index: Mask value that is no class.
        class_names: Name of each class.
        palette: Colour of each class, RGB.
        layout: The dataset's folders and files, drawn as a tree, for error messages.
        label_values: The value in the label files of each class; every other value but the void ones is an error.
        void_values: Values in the label files that are ignored.

    Raises:
        ValueError: For sizes, scales or numbers out of range.
    """

    num_classes: int
    ignore_index: int = 255
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    layout: ClassVar[str]
    label_values: ClassVar[Sequence[int]]
    void_values: ClassVar[Sequence[int]] = ()

    def __init__(
        self,
        root: str | Path,
        crop_size: tuple[int, int],
        image_size: tuple[int, int] | None = None,
        scale: tuple[float, float] = (0.5, 2.0),
        horizontal_flip: float = 0.5,
        photometric: bool = False,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        predict_split: Split = "test",
    ) -> None:
        super().__init__()
        for name, size in (("crop_size", crop_size), ("image_size", image_size or (1, 1))):
            if len(size) != 2 or min(size) < 1:
                raise ValueError(f"expected {name} to be a height and a width of 1 or more pixels, got {size}")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"expected scale to be two positive numbers, the smaller one first, got {scale}")
        if not 0 <= horizontal_flip <= 1:
            raise ValueError(f"expected horizontal_flip to be a probability, got {horizontal_flip}")
        for name, number, smallest in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if number < smallest:
                raise ValueError(f"expected {name} to be {smallest} or more, got {number}")
        self.root = Path(root)
        self.crop_size = crop_size
        self.image_size = image_size
        self.scale = scale
        self.horizontal_flip = horizontal_flip
        self.photometric = photometric
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.predict_split = predict_split
        self.datasets: dict[str, SegmentationDataset] = {}

    @abstractmethod
    def files(self, split: Split) -> list[tuple[Path, Path]]:
        """Path of each image of a split with that of its label, sorted.

        Raises:
            FileNotFoundError: If a folder is missing.
            ValueError: If it holds no images, or images without labels.
        """

    def dataset(self, split: Split, training: bool) -> SegmentationDataset:
        """The dataset of a split, for training or for evaluation."""
        table = np.full(256, UNKNOWN, dtype=np.uint8)
        table[list(self.label_values)] = np.arange(len(self.label_values))
        table[list(self.void_values)] = self.ignore_index
        return FileDataset(self.files(split), table, self.pipeline(training), training)

    def setup(self, stage: str) -> None:
        """Build the datasets of a stage (fit, validate, test or predict) and no other, once.

        Raises:
            FileNotFoundError: See :meth:`files`.
            ValueError: See :meth:`files`.
        """
        stages: dict[str, dict[str, Split]] = {
            "fit": {"train": "train", "val": "val"},
            "validate": {"val": "val"},
            "test": {"test": "test"},
            "predict": {"predict": self.predict_split},
        }
        if stage not in stages:
            raise ValueError(f"expected a stage out of {', '.join(stages)}, got {stage!r}")
        for loader, split in stages[stage].items():
            if loader not in self.datasets:
                self.datasets[loader] = self.dataset(split, training=loader == "train")

    def pipeline(self, training: bool) -> A.Compose:
        """What is done to the images."""
        if not training:
            return evaluation_pipeline(self.image_size)
        return training_pipeline(
            self.crop_size, self.scale, self.image_size, self.horizontal_flip, self.photometric, self.ignore_index
        )

    def train_dataloader(self) -> TrainingLoader:
        """Shuffled, augmented training batches; the last incomplete one is dropped.

        Raises:
            ValueError: If there are fewer images than a batch takes.
        """
        dataset = self._built("train")
        sampler = TrainingSampler(dataset, *self._processes(), _seed())
        if len(sampler) < self.batch_size:
            raise ValueError(
                f"expected at least batch_size={self.batch_size} training images a process, got {len(sampler)}; "
                "set a smaller batch_size"
            )
        return TrainingLoader(
            dataset, batch_size=self.batch_size, sampler=sampler, drop_last=True, **self._loader_options()
        )

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Every validation image once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Every test image once."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Every image of ``predict_split`` once."""
        return self._evaluation_loader("predict")

    def _evaluation_loader(self, name: str) -> DataLoader[dict[str, Any]]:
        dataset = self._built(name)
        sampler = EvaluationSampler(dataset, *self._processes())
        return DataLoader(dataset, batch_size=self.eval_batch_size, sampler=sampler, **self._loader_options())

    def _built(self, loader: str) -> SegmentationDataset:
        if loader not in self.datasets:
            stage = {"train": "fit", "val": "validate"}.get(loader, loader)
            raise ValueError(f"expected setup({stage!r}) before the {loader} loader is asked for")
        return self.datasets[loader]

    def _loader_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "worker_init_fn": _one_thread,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

    def _processes(self) -> tuple[int, int]:
        """How many processes share the images, and which of them this is."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)


def _seed() -> int:
    """The seed given to ``lightning.seed_everything``, or torch's."""
    return int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))


def _one_thread(worker_id: int) -> None:
    """Keep a worker to one core: the workers are the parallelism."""
    cv2.setNumThreads(0)
