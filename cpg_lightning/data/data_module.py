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
from cpg_lightning.data.prediction import FilePredictionDataset, PredictionDataset, counted, images_at
from cpg_lightning.data.resizing import evaluation_pipeline
from cpg_lightning.data.sampling import EvaluationSampler, TrainingSampler
from cpg_lightning.data.steps import Division
from cpg_lightning.data.workers import default_workers, local_processes


class SegmentationDataModule(DatasetDescription, L.LightningDataModule):
    """Loaders over image and label files.

    A batch is ``{"image": uint8 (B, 3, H, W) RGB, "mask": int64 (B, H, W), "name": list of B}``. Training images are
    augmented and padded to the crop size (image 0, mask 255, which is ignored); in evaluation the mask keeps the label
    file's own size. It works without a Trainer too: after ``setup(stage)`` the loaders give the same batches, and each
    new iteration of the training loader is the next epoch. Training samples depend on the seed given to
    ``lightning.seed_everything``, on the epoch and on the image, not on the number of workers or processes.
    Images without labels can be predicted, and nothing else: their batches have no mask.

    A subclass is one dataset: it sets the attributes of :class:`~cpg_lightning.data.description.DatasetDescription` and writes
    its :meth:`files`.

    Args:
        root: Folder of the dataset, or of its official zip files where the dataset has ``archives``.
        augmentation: How training images are augmented, with the size of their crops.
        image_size: Height and width in pixels that images are resized to, or their shorter side; then the aspect ratio is
            kept. It holds in evaluation, and in training before the random scale. Each image's own size by default.
        train_with_val: Whether to train on the validation images too, for a benchmark's server.
        batch_size: Images of one optimizer step in training, over all devices and accumulated batches, so that steps and
            learning rates do not change with them; see :attr:`division`. Without a Trainer, images of a batch.
        eval_batch_size: Images of a batch of each process in evaluation; more than 1 needs labels of one size.
        num_workers: Processes that load images, for each training process; 0 loads them in the training process. By default
            the cores that this process may use (by affinity and by its cgroup's CPU quota), divided among the training
            processes of the machine, 1 to 8.
        test_split: Split that ``test`` takes; ``default_test_split`` by default.
        predict_split: Split that ``predict`` takes; the test split where there is one, else the validation split.
        predict_images: Images that ``predict`` takes instead: a folder, a file, or a text file with one path per line.
        max_pixels: Pixels that an image or a label may have, and an image that is resized in evaluation.

    In paths, ``~`` and environment variables are filled in. An image that its file says to turn (EXIF, or TIFF's tag) is
    predicted as it is shown; with a label it is an error.

    Attributes:
        predicted: What has been predicted already and is left out; None for nothing.
        ignored_signals: Signals that the workers ignore, for a training that ends by them after its step; none by default.

    Raises:
        ValueError: For sizes or numbers out of range.
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
        # Of images to predict a process may have none; the loaders of the other stages look for themselves.
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
        """Set the attributes that are read from files in ``root``; none by default."""

    def dataset(self, split: Split, training: bool) -> SegmentationDataset:
        """The dataset of a split, for training or for evaluation.

        Raises:
            FileNotFoundError: See :meth:`files`.
            ValueError: See :meth:`files`.
        """
        if split not in self.splits:
            raise ValueError(
                f"expected a split out of {', '.join(self.splits)}, got {split!r}: {type(self).__name__} in {self.root}"
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
        """The images to predict: ``predict_images``, or those of a split; without those that are predicted already.

        Raises:
            FileNotFoundError: See :meth:`files`, and if there are no ``predict_images``.
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
        """The image files among which those to predict are."""
        if self.predict_images is None:
            with self.tree.without_labels():
                return [image for image, _ in self.files(split)]
        place = expanded(self.predict_images)
        images, others = images_at(place, self.max_pixels)
        if others:
            rank_zero_warn(f"not predicted in {place}, as they are no images that are read: {counted(others)}")
        return images

    def setup(self, stage: str) -> None:
        """Build the datasets of a stage (fit, validate, test or predict) and no other, once.

        Raises:
            FileNotFoundError: See :meth:`files`.
            ValueError: See :meth:`files`; if a split to learn from or to evaluate on has no labels; if no pixel to learn from
                has a class; if training images do not divide into whole steps, see :attr:`division`.
        """
        stages: dict[str, dict[str, Split]] = {
            "fit": {"train": "train", "val": "val"},
            "validate": {"val": "val"},
            "test": {"test": self.test_split},
            "predict": {"predict": self.predict_split},
        }
        if stage not in stages:
            raise ValueError(f"expected a stage out of {', '.join(stages)}, got {stage!r}")
        division = self.division if stage == "fit" else None
        if self.num_workers is None and not self.datasets:
            processes = local_processes(self.trainer)
            rank_zero_info(
                f"num_workers: {default_workers(processes)}, for {available_cores()} cores and {processes} training "
                f"process{'es' * (processes > 1)} on this machine; --data.num_workers sets another number"
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
        """The dataset of a split that must have labels."""
        dataset = self.dataset(split, training=loader == "train")
        if not dataset.labelled:
            raise ValueError(
                f"expected images with labels to {TrainerFn(stage).value} with, got the {split} split of {type(self).__name__} in "
                f"{self.root}, which has none; its images can be predicted. {self.why_no_labels(split)}"
                f"Expected layout:\n{self.layout}"
            )
        if loader == "train":
            dataset.check_labels()
        return dataset

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of training images in pixels."""
        return self.augmentation.crop_size

    def pipeline(self, training: bool) -> A.Compose:
        """What is done to the images, in training or in evaluation."""
        if not training:
            return evaluation_pipeline(self.image_size, self.max_pixels)
        return self.augmentation.pipeline(self.label_table(), self.image_size)

    @property
    def division(self) -> Division:
        """How the images of a step are divided among the Trainer's processes and accumulated batches.

        Raises:
            ValueError: If they do not divide.
        """
        if self.trainer is None:
            return Division(self.batch_size)
        return Division(self.batch_size, self.trainer.world_size, self.trainer.accumulate_grad_batches)

    def train_dataloader(self) -> TrainingLoader:
        """Shuffled, augmented training batches; images of the epoch that do not fill a whole step are dropped."""
        dataset, division = self._built("train"), self.division
        sampler = TrainingSampler(dataset, division, self._processes()[1], _seed())
        loader = TrainingLoader(
            dataset, batch_size=division.share, sampler=sampler, drop_last=True, **self.loader_options()
        )
        loader.within_run = self._within_run
        return loader

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Convert masks to int64, which losses need. The Trainer calls this on the device, so that one byte per pixel is sent."""
        return with_int64_masks(batch)

    def val_dataloader(self) -> SegmentationLoader:
        """Every validation image once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> SegmentationLoader:
        """Every test image once."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> SegmentationLoader:
        """Every image of ``predict_split`` once."""
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
            raise ValueError(f"expected setup({stage!r}) before the {loader} loader is asked for")
        return self.datasets[loader]

    def loader_options(self) -> dict[str, Any]:
        """The options of all loaders besides their samples."""
        processes = local_processes(self.trainer)
        num_workers = default_workers(processes) if self.num_workers is None else self.num_workers
        return loader_options(num_workers, self.ignored_signals)

    def _within_run(self) -> bool:
        """Whether a Trainer will call ``on_after_batch_transfer``."""
        return self.trainer is not None and self.trainer.state.status == TrainerStatus.RUNNING

    def _processes(self) -> tuple[int, int]:
        """How many processes share the images, and which of them this is."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)


def _seed() -> int:
    """The seed given to ``lightning.seed_everything``, or torch's."""
    return int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))
