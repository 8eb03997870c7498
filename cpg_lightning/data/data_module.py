"""The data module of a segmentation dataset: its datasets and loaders."""

import os
from pathlib import Path
from typing import Any

import albumentations as A
import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from cpg_lightning.cores import available_cores
from cpg_lightning.data.augmentation import Augmentation
from cpg_lightning.data.dataset import FileDataset, SegmentationDataset, image_names
from cpg_lightning.data.decoding import MOST_PIXELS
from cpg_lightning.data.description import DatasetDescription, Split
from cpg_lightning.data.files import FileTree
from cpg_lightning.data.loading import SegmentationLoader, TrainingLoader, loader_options, with_int64_masks
from cpg_lightning.data.options import check_area, check_image_size, check_whole
from cpg_lightning.data.paths import expanded
from cpg_lightning.data.predicted import PredictionRecord, identity_of
from cpg_lightning.data.prediction import FilePredictionDataset, PredictionDataset, format_counts, list_images
from cpg_lightning.data.resizing import evaluation_pipeline
from cpg_lightning.data.sampling import EvaluationSampler, TrainingSampler
from cpg_lightning.data.steps import Division
from cpg_lightning.data.workers import default_workers, local_processes


class SegmentationDataModule(DatasetDescription, L.LightningDataModule):
    """Loads images and labels from files.

    A batch is ``{"image": uint8 (B, 3, H, W) RGB, "mask": int64 (B, H, W), "name": list of B}``. Training images are
    augmented and padded to the crop size (image 0, mask 255, which is ignored). In evaluation, the mask keeps the size of
    the label file. Training samples depend on the seed given to ``lightning.seed_everything``, the epoch and the image, but
    not on the number of workers or processes. Images without labels can only be predicted; their batches have no mask.

    The data module also works without a Trainer. After ``setup(stage)``, the loaders return the same batches. Each new
    iteration of the training loader is the next epoch.

    A subclass describes one dataset. It sets the attributes of :class:`~cpg_lightning.data.description.DatasetDescription`
    and implements :meth:`files`.

    Args:
        root: Folder of the dataset, or of its official zip files if the dataset has ``archives``.
        augmentation: Augmentation of training images, with their crop size.
        image_size: Height and width in pixels to which images are resized, or the length of their shorter side, which keeps
            the aspect ratio. In training, it applies before the random scale. By default, each image keeps its size.
        train_with_val: Whether to train on the validation images too, e.g. for a benchmark server.
        batch_size: Images of one optimizer step, over all devices and accumulated batches, so that steps and learning rates
            do not depend on their numbers; see :attr:`division`. Without a Trainer, images of one batch.
        eval_batch_size: Images of one batch of each process in evaluation. More than 1 requires labels of one size.
        num_workers: Worker processes per training process; 0 loads images in the training process. The default is the
            number of available cores (CPU affinity and cgroup quota), divided by the training processes of the machine, 1 to 8.
        test_split: Split for ``test``; ``default_test_split`` by default.
        predict_split: Split for ``predict``; by default the test split if it exists, else the validation split.
        predict_images: Images for ``predict`` instead of a split: a folder, a file, or a text file with one path per line.
        max_pixels: Largest number of pixels of an image or a label, and of an image after resizing in evaluation.

    In paths, ``~`` and environment variables are expanded. An image that is stored rotated (EXIF orientation or TIFF tag) is
    predicted in its displayed orientation. With a label, it raises an error.

    Attributes:
        predicted: Record of earlier predictions, which ``predict`` skips; None to predict all images.
        ignored_signals: Signals that workers ignore, for trainings that stop after a step on a signal; none by default.

    Raises:
        ValueError: If a size or number is out of range.
    """

    def __init__(
        self,
        root: str | Path,
        augmentation: Augmentation,
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
        super().__init__()
        check_whole("max_pixels", max_pixels, 1)
        if not isinstance(augmentation, Augmentation):
            raise ValueError(
                f"expected an Augmentation, such as Augmentation(crop_size=(512, 512)), got {augmentation}"
            )
        check_area("crop_size", augmentation.crop_size, max_pixels)
        check_image_size(image_size, max_pixels)
        for name, value, smallest in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", 0 if num_workers is None else num_workers, 0),
        ):
            check_whole(name, value, smallest)
        # In prediction, a process may have no images. In other stages, EvaluationSampler and Division check the number.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.root = expanded(root)
        self.read_metadata()
        for name, split in (("test_split", test_split), ("predict_split", predict_split)):
            if split is not None and split not in self.splits:
                raise ValueError(f"expected {name} to be {' or '.join(self.splits)}, got {split!r}")
        self.augmentation = augmentation
        self.image_size = image_size
        self.train_with_val = train_with_val
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.test_split: Split = test_split or self.default_test_split
        self.predict_split: Split = predict_split or self.splits[-1]
        self.predict_images = predict_images
        self.predicted: PredictionRecord | None = None
        self.ignored_signals: tuple[int, ...] = ()
        self.max_pixels = max_pixels
        self.tree = FileTree(self.root, self.layout, self.archives, max_pixels)
        self.datasets: dict[str, SegmentationDataset | PredictionDataset] = {}

    def read_metadata(self) -> None:
        """Set attributes that depend on files in ``root``. By default, there are none."""

    def dataset(self, split: Split, training: bool) -> SegmentationDataset:
        """Build the dataset of a split, for training or for evaluation.

        Raises:
            FileNotFoundError: See :meth:`files`.
            ValueError: See :meth:`files`.
        """
        if split not in self.splits:
            raise ValueError(
                f"expected split to be one of {', '.join(self.splits)}, got {split!r}: {type(self).__name__} in {self.root}; "
                "data.test_split and data.predict_split set the splits of test and predict"
            )
        files = self.files(split) + (self.files("val") if training and self.train_with_val else [])
        return FileDataset(
            self.tree,
            files,
            self.decode_image,
            self.label_decoder(),
            self.unknown_hint,
            self.pipeline(training),
            training,
            self.label_table(),
            self.max_pixels,
        )

    def prediction_dataset(self, split: Split) -> PredictionDataset:
        """Build the dataset of the images to predict: ``predict_images`` or a split, without images predicted earlier.

        Raises:
            FileNotFoundError: See :meth:`files`, and if ``predict_images`` does not exist.
            ValueError: See :meth:`files`.
        """
        images = self._images(split)
        if self.predicted is not None:
            images = self.predicted.without_predictions(images)
        names = image_names(images)
        if self.predicted is not None:
            named = ((name, identity_of(path, self.tree.stored_in(path)), path) for path, name in names.items())
            names = {path: names[path] for path in self.predicted.remaining(named)}
        return FilePredictionDataset(self.tree, names, self.decode_image, self.pipeline(False), self.max_pixels)

    def _images(self, split: Split) -> list[Path]:
        """Return all image files for prediction, including those predicted earlier."""
        if self.predict_images is None:
            with self.tree.without_labels():
                return [image for image, _ in self.files(split)]
        place = expanded(self.predict_images)
        images, others = list_images(place, self.max_pixels)
        if others:
            rank_zero_warn(f"not predicted in {place}, because their format is not supported: {format_counts(others)}")
        return images

    def setup(self, stage: str) -> None:
        """Build the datasets of one stage: fit, validate, test or predict. Existing datasets are kept.

        Raises:
            FileNotFoundError: See :meth:`files`.
            ValueError: See :meth:`files`; if a split for training or evaluation has no labels; if no training pixel has a
                class; if the images of a step do not divide evenly, see :attr:`division`.
        """
        stages: dict[str, dict[str, Split]] = {
            "fit": {"train": "train", "val": "val"},
            "validate": {"val": "val"},
            "test": {"test": self.test_split},
            "predict": {"predict": self.predict_split},
        }
        if stage not in stages:
            raise ValueError(f"expected stage to be one of {', '.join(stages)}, got {stage!r}")
        division = self.division if stage == "fit" else None
        if self.num_workers is None and not self.datasets:
            processes = local_processes(self.trainer)
            rank_zero_info(
                f"num_workers: {default_workers(processes)}, from {available_cores()} cores and {processes} training "
                f"process{'es' * (processes > 1)} on this machine; change it with --data.num_workers"
            )
        for loader, split in stages[stage].items():
            if loader not in self.datasets:
                self.datasets[loader] = (
                    self.prediction_dataset(split) if stage == "predict" else self._labelled(split, stage, loader)
                )
        if division is not None:
            images = len(self.datasets["train"])
            division.check_images(images)
            if self.trainer is not None:
                division.check_limit(images, self.trainer.limit_train_batches)

    def _labelled(self, split: Split, stage: str, loader: str) -> SegmentationDataset:
        """Build the dataset of a split, and check that it has labels."""
        dataset = self.dataset(split, training=loader == "train")
        if not dataset.labelled:
            raise ValueError(
                f"expected images with labels for {TrainerFn(stage).value}, got the {split} split of {type(self).__name__} in "
                f"{self.root}, which has none; its images can be predicted. "
                f"{self.explain_missing_labels(split)}Expected layout:\n{self.layout}"
            )
        if loader == "train":
            dataset.check_labels()
        return dataset

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of training images in pixels."""
        return self.augmentation.crop_size

    def pipeline(self, training: bool) -> A.Compose:
        """Build the pipeline of transforms for training or for evaluation."""
        if not training:
            return evaluation_pipeline(self.image_size, self.max_pixels)
        return self.augmentation.pipeline(self.label_table(), self.image_size)

    @property
    def division(self) -> Division:
        """Division of the images of a step among the Trainer's processes and accumulated batches.

        Raises:
            ValueError: If the images do not divide evenly.
        """
        if self.trainer is None:
            return Division(self.batch_size)
        return Division(self.batch_size, self.trainer.world_size, self.trainer.accumulate_grad_batches)

    def train_dataloader(self) -> TrainingLoader:
        """Return the loader of shuffled, augmented training batches. Images that do not fill a whole step are dropped."""
        dataset, division = self._built("train"), self.division
        sampler = TrainingSampler(dataset, division, self._processes()[1], _seed())
        loader = TrainingLoader(
            dataset, batch_size=division.batch_size_per_device, sampler=sampler, drop_last=True, **self.loader_options()
        )
        loader.within_run = self._within_run
        return loader

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Convert masks to int64, which losses need. This runs on the device, so that only one byte per pixel is copied."""
        return with_int64_masks(batch)

    def val_dataloader(self) -> SegmentationLoader:
        """Return the loader of all validation images."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> SegmentationLoader:
        """Return the loader of all images of ``test_split``."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> SegmentationLoader:
        """Return the loader of all images to predict."""
        return self._evaluation_loader("predict")

    def _evaluation_loader(self, name: str) -> SegmentationLoader:
        dataset = self._built(name)
        sampler = EvaluationSampler(dataset, *self._processes(), every_process=name != "predict")
        loader = SegmentationLoader(dataset, batch_size=self.eval_batch_size, sampler=sampler, **self.loader_options())
        loader.within_run = self._within_run
        return loader

    def _built(self, loader: str) -> SegmentationDataset | PredictionDataset:
        if loader not in self.datasets:
            stage = {"train": "fit", "val": "validate"}.get(loader, loader)
            raise ValueError(f"expected a call of setup({stage!r}) before {loader}_dataloader(), got none")
        return self.datasets[loader]

    def loader_options(self) -> dict[str, Any]:
        """Return the common options of all loaders."""
        processes = local_processes(self.trainer)
        num_workers = default_workers(processes) if self.num_workers is None else self.num_workers
        return loader_options(num_workers, self.ignored_signals)

    def _within_run(self) -> bool:
        """Whether a Trainer will call ``on_after_batch_transfer``."""
        return self.trainer is not None and self.trainer.state.status == TrainerStatus.RUNNING

    def _processes(self) -> tuple[int, int]:
        """Return the world size and the rank of this process."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)


def _seed() -> int:
    """Return the seed given to ``lightning.seed_everything``, or torch's seed."""
    return int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))
