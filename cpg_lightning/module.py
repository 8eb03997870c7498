"""The LightningModule around any segmentation network and criterion."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from cpg_lightning.checkpoints import FACTS, check_paths, check_weights, module_arguments, read_checkpoint
from cpg_lightning.inference import Inference
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.losses.criterion import SegmentationCriterion
from cpg_lightning.metrics import AbsentClasses, BoundaryF1Score, BoundaryIoU, ClassIoU, TrimapJaccardIndex, accuracies
from cpg_lightning.metrics.evaluation import ImageCounts
from cpg_lightning.networks import SegmentationNetwork
from cpg_lightning.pictures import Colour, default_palette


@dataclass
class Scores:
    """What an evaluation came to, on the CPU.

    Attributes:
        confusion: Pixels of each class (rows) predicted as each (columns), int64 (C, C).
        iou: Of each class, float64 (C), NaN for one that is left out.
        means: The figures that are logged, by name.
        boundary_iou: Of each class, float64 (C), NaN for one without a boundary; None where it was not due.
        trimap: Mean IoU in the band of each width; None where it was not due.
    """

    confusion: Tensor
    iou: Tensor
    means: dict[str, Tensor]
    boundary_iou: Tensor | None = None
    trimap: dict[int, Tensor] | None = None


# With more classes, one chart per class clutters the logger; the table stays complete.
MOST_CLASSES_LOGGED = 40
# These scores are computed in every ``boundary_metrics_every``-th validation only.
BOUNDARY_SCORES = ("val/boundary_", "val/trimap_")


class SegmentationModule(L.LightningModule):
    r"""Trains and evaluates a segmentation network.

    The training loss is the criterion of the main output plus, where the network has an auxiliary output,
    ``aux_weight`` times its cross-entropy. The learning rate rises linearly for ``warmup_steps`` steps and then decays
    polynomially, step by step, to 0 at the end of training:

    .. math::
        \eta_i = \eta \min\left(1, \frac{i + 1}{w}\right) \left(1 - \frac{\max(0, i - w)}{n - w}\right)^{p}

    Logged: ``train/loss`` and the criterion's terms (``train/ce``, ``train/cpg``), ``lr``, ``val/mIoU`` and, up to 40
    classes, ``val/IoU/<class>``, with ``val/pixel_accuracy``, ``val/class_accuracy`` and ``val/fwIoU``; ``val/boundary_IoU``,
    ``val/boundary_F1/<n>px`` and ``val/trimap_mIoU/<n>px``; ``test/...`` likewise. All are over the whole dataset, at the
    labels' own size.

    Args:
        network: Any segmentation network.
        criterion: Any segmentation criterion.
        num_classes: Number of classes C.
        ignore_index: Mask value that is no class.
        class_names: Name of each class; their numbers by default.
        palette: Colour of each class, RGB.
        absent_classes: What the mIoU does about a class that the labels do not have; see
            :class:`~cpg_lightning.metrics.ClassIoU`.
        dilation_ratio: Width of the band of the boundary IoU, as a fraction of an image's diagonal.
        boundary_metrics_every: In training, every n-th validation has boundary metrics, and the last, unless training
            ends early; in ``validate`` and ``test`` there always are.
        image_size: What the data module resizes images to before it gives them, for predictions without one; see
            :class:`~cpg_lightning.predictor.Predictor`.
        inference: How images are predicted in evaluation; whole and once by default.
        predict_probabilities: Whether ``predict`` gives the probabilities of all classes rather than the classes.
        optimizer: Builds the optimizer from the parameters, e.g. ``functools.partial(torch.optim.SGD, lr=0.01)``;
            ``torch.optim.AdamW`` with its own defaults if left out.
        warmup_steps: Optimizer steps of linear warm-up w.
        poly_power: Power p of the polynomial decay.
        aux_weight: Weight of the auxiliary output's cross-entropy.
        weights: File of weights to start the network from: a checkpoint of this package, or a state dict; see
            :meth:`~cpg_lightning.networks.SegmentationNetwork.load_weights`.
        new_classifier: Whether, where those are of another number of classes, the last layers start anew.
        compile_network: Whether the Trainer compiles the network, in place, see :meth:`torch.nn.Module.compile`. The first
            step then takes a minute or more. Images of other sizes may compile it again. The names in the state dict do not
            change, so checkpoints can be used with and without it.

    Raises:
        ValueError: If there are fewer than 2 classes or not as many class names or colours as classes, or if numbers are
            out of range.

    Example:
        >>> import lightning as L
        >>> from cpg_lightning.data import ShapesDataModule
        >>> from cpg_lightning.losses import CrossEntropyCPGLoss
        >>> from cpg_lightning.networks import LRASPP
        >>> data = ShapesDataModule()
        >>> module = SegmentationModule(LRASPP(data.num_classes), CrossEntropyCPGLoss(), data.num_classes)
        >>> L.Trainer(max_epochs=6).fit(module, datamodule=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        criterion: SegmentationCriterion,
        num_classes: int,
        ignore_index: int = 255,
        class_names: Sequence[str] | None = None,
        palette: Sequence[tuple[int, int, int]] | None = None,
        absent_classes: AbsentClasses = "skip",
        dilation_ratio: float = 0.02,
        boundary_metrics_every: int = 5,
        image_size: int | tuple[int, int] | None = None,
        inference: Inference | None = None,
        predict_probabilities: bool = False,
        optimizer: OptimizerCallable | None = None,
        warmup_steps: int = 0,
        poly_power: float = 0.9,
        aux_weight: float = 0.4,
        weights: str | None = None,
        new_classifier: bool = False,
        compile_network: bool = False,
    ) -> None:
        super().__init__()
        for name, values in (("class_names", class_names), ("palette", palette)):
            if values is not None and len(values) != num_classes:
                raise ValueError(
                    f"expected {name} to have an entry for each of {num_classes} classes, got {len(values)}"
                )
        for name, number in (("warmup_steps", warmup_steps), ("poly_power", poly_power), ("aux_weight", aux_weight)):
            if not 0 <= number < math.inf:
                raise ValueError(f"expected {name} to be 0 or more and finite, got {number}")
        if boundary_metrics_every < 1:
            raise ValueError(
                f"expected boundary_metrics_every to be 1 or more validations, got {boundary_metrics_every}"
            )
        sides = image_size if isinstance(image_size, tuple | list) and len(image_size) == 2 else (image_size,)
        if image_size is not None and not all(isinstance(side, int) and 0 < side < 2**31 for side in sides):
            raise ValueError(f"expected image_size to be one or two positive numbers of pixels, got {image_size!r}")
        if not isinstance(ignore_index, int) or abs(ignore_index) >= 2**31:
            raise ValueError(f"expected ignore_index to be an integer of 32 bits, got {ignore_index!r}")
        # A checkpoint holds these facts as plain values, which load under weights_only=True. Objects are left out.
        facts: dict[str, Any] = {
            "num_classes": num_classes,
            "ignore_index": ignore_index,
            "class_names": None if class_names is None else [str(name) for name in class_names],
            "palette": None if palette is None else [(int(red), int(green), int(blue)) for red, green, blue in palette],
            "absent_classes": absent_classes,
            "dilation_ratio": dilation_ratio,
            "image_size": image_size,
        }
        self.hparams.update({name: facts[name] for name in FACTS})
        if weights is not None:
            network.load_weights(weights, new_classifier)
        if network.memory_format is not torch.contiguous_format:
            network.to(memory_format=network.memory_format)
        self.network = network
        self.criterion = criterion
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names: list[str] = facts["class_names"] or [str(number) for number in range(num_classes)]
        self.palette: list[tuple[int, int, int]] | None = facts["palette"]
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.poly_power = poly_power
        self.aux_weight = aux_weight
        self.boundary_metrics_every = boundary_metrics_every
        self.image_size = image_size
        self.inference = inference or Inference()
        self.predict_probabilities = predict_probabilities
        self.compile_network = compile_network
        self.class_iou = ClassIoU(num_classes, ignore_index, absent_classes)
        self.boundary_iou = BoundaryIoU(num_classes, dilation_ratio, ignore_index, average="none")
        self.boundary_f1 = BoundaryF1Score(num_classes, ignore_index=ignore_index)
        self.trimap = TrimapJaccardIndex(num_classes, ignore_index=ignore_index)
        self.scores: Scores | None = None  # of the last evaluation
        self.validations = 0  # of this training
        self.mean: Tensor
        self.std: Tensor
        # In checkpoints too: they may have come with weights that a checkpoint does not fetch again.
        self.register_buffer("mean", 255 * torch.tensor(network.mean).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(network.std).view(3, 1, 1))

    @property
    def colours(self) -> Sequence[Colour]:
        """Colour of each class, RGB: the palette, or colours that are easy to tell apart."""
        return self.palette or default_palette(self.num_classes)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: str | torch.device = "cpu",
        *,
        network: SegmentationNetwork | None = None,
        criterion: SegmentationCriterion | None = None,
        allow: Collection[str] = (),
    ) -> "SegmentationModule":
        """A module for evaluation, with the weights and the classes of a checkpoint.

        A checkpoint is data: only the network's class and plain arguments, the facts of the classes and the weights are
        taken from it. It cannot choose what is imported or opened. To continue a training, use ``cpg fit --ckpt_path`` or
        ``Trainer.fit(ckpt_path=...)``.

        Args:
            checkpoint_path: The checkpoint file.
            map_location: The module's device.
            network: The network, for a checkpoint of a module that was built in Python.
            criterion: The criterion; :class:`~cpg_lightning.losses.CrossEntropyCPGLoss` by default.
            allow: Class paths outside of this package that may be imported, e.g. ``["my_package.MyNetwork"]``.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint of this package, needs a network, is of another network, or names a class that
                is not allowed.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        arguments = module_arguments(checkpoint, checkpoint_path, network, allow)
        try:
            module = cls(criterion=criterion or CrossEntropyCPGLoss(), **arguments)
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"expected the facts of a module in the checkpoint: {error}: {checkpoint_path}") from error
        check_weights(module, checkpoint["state_dict"], checkpoint_path)
        module.load_state_dict(checkpoint["state_dict"])
        return module.to(map_location)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Look at a checkpoint that a Trainer restores, before its callbacks do.

        Raises:
            ValueError: See :func:`~cpg_lightning.checkpoints.check_paths`.
        """
        check_paths(checkpoint, "the checkpoint that the Trainer was given")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The network's logits of images (B, 3, H, W), RGB in 0..255.

        Raises:
            ValueError: If the network has another number of classes than the module.
        """
        normalised = (images - self.mean) / self.std
        logits: dict[str, Tensor] = self.network(normalised.contiguous(memory_format=self.network.memory_format))
        if logits["out"].shape[1] != self.num_classes:
            raise ValueError(
                f"expected the network to have the data's {self.num_classes} classes, got {logits['out'].shape[1]}"
            )
        return logits

    def setup(self, stage: str) -> None:
        """Check what this module is run with; see :meth:`check_run`."""
        self.check_run(self.trainer, getattr(self.trainer, "datamodule", None), stage)

    def configure_model(self) -> None:
        """Compile the network in place where ``compile_network`` is set.

        Lightning calls this hook in each process, before it wraps the module in DDP.
        """
        # Not in the constructor: a copy for another process would not be compiled. torch reuses the code of an earlier call.
        if self.compile_network:
            self.network.compile()

    def check_run(self, trainer: L.Trainer, data: L.LightningDataModule | None, stage: str) -> None:
        """Refuse a Trainer or data that this module cannot be run with, before anything is written.

        Args:
            trainer: The Trainer.
            data: The data module, if there is one.
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            ValueError: If a callback monitors a score that it cannot, or images do not have the size that the network
                needs.
        """
        if stage == "fit":
            self.check_monitors(trainer.callbacks)  # type: ignore[attr-defined]
            if trainer.world_size > 1 and self.network.unprobed is not None:
                rank_zero_warn(
                    f"it is not known which parameters of {type(self.network).__name__} reach no logits: "
                    f"{self.network.unprobed}; if the first step stops over unused parameters, set "
                    "--trainer.strategy ddp_find_unused_parameters_true"
                )
        size = self.network.fixed_size
        if size is None:
            return
        only = f"the one size that {type(self.network).__name__} takes, {size[0]}x{size[1]} pixels"
        crop_size = tuple(getattr(data, "crop_size", size))
        if stage == "fit" and crop_size != size:
            raise ValueError(
                f"expected training images of {only}, got a crop_size of {crop_size}; "
                f"set --data.augmentation.crop_size {list(size)}"
            )
        given = self.inference.window or self.image_size
        if not isinstance(given, tuple | list) or tuple(given) != size:
            raise ValueError(
                f"expected images of {only}, in evaluation, got {'images of any size' if given is None else given}; set "
                f"--data.image_size {list(size)}, or an --model.inference with this window and border pad"
            )

    def check_monitors(self, callbacks: Iterable[Callback]) -> None:
        """Refuse callbacks such as EarlyStopping on a score that no validation has, or not every validation.

        With a score of some validations, they would compare the last value with itself.

        Raises:
            ValueError: If a callback monitors such a score.
        """
        known = self.validation_scores()
        for callback in callbacks:
            monitor = str(getattr(callback, "monitor", ""))
            if self.boundary_metrics_every > 1 and monitor.startswith(BOUNDARY_SCORES):
                raise ValueError(
                    f"expected {type(callback).__name__} to monitor a score of every validation, got {monitor}, which is "
                    f"computed in every {self.boundary_metrics_every}th; set --model.boundary_metrics_every 1"
                )
            if monitor.startswith("val/") and monitor not in known:
                raise ValueError(
                    f"expected {type(callback).__name__} to monitor one of {', '.join(known)}, got {monitor}"
                )

    def validation_scores(self) -> list[str]:
        """The names of the scores that validations log, for callbacks that monitor one; a subclass may add its own."""
        means = ["mIoU", "pixel_accuracy", "class_accuracy", "fwIoU", "boundary_IoU"]
        means += [f"boundary_F1/{threshold:g}px" for threshold in self.boundary_f1.thresholds]
        means += [f"trimap_mIoU/{width}px" for width in self.trimap.widths]
        if self.num_classes <= MOST_CLASSES_LOGGED:
            means += [f"IoU/{name}" for name in self.class_names]
        return [f"val/{name}" for name in means]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        logits = self(batch["image"])
        loss = self.criterion(logits["out"], batch["mask"], self.network.align_corners)
        terms = dict(self.criterion.terms)
        if logits.get("aux") is not None:
            aux = self.criterion.auxiliary(logits["aux"], batch["mask"], self.network.align_corners)
            loss = loss + self.aux_weight * aux
            terms["aux"] = aux.detach()
        images = len(batch["image"])
        # Lightning reads what is in a progress bar after every step, for which the host waits, also where there is no bar.
        shown = self.trainer.progress_bar_callback is not None
        self.log("train/loss", loss.detach(), prog_bar=shown, batch_size=images)
        self.log_dict({f"train/{name}": term for name, term in terms.items()}, batch_size=images)
        # A tensor that the device fills: a number would be copied to it, for which the host waits.
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("lr", torch.full((), rate, dtype=torch.float32, device=self.device), batch_size=images)
        return loss

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        """The predicted classes, or probabilities if told; None for a batch none of whose images could be read."""
        if batch.get("name") == []:
            return None
        if self.predict_probabilities:
            return self.inference.probabilities(*self._evaluated(batch))
        return self.classes(batch)

    def classes(self, batch: dict[str, Any]) -> Tensor:
        """The predicted classes (B, H, W) at the labels' own size, which is the images' before they were resized."""
        return self.inference.classes(*self._evaluated(batch))

    def _evaluated(self, batch: dict[str, Any]) -> tuple[Callable[[Tensor], Tensor], Tensor, tuple[int, int], bool]:
        """The arguments of :meth:`Inference.classes` for a batch."""
        return lambda images: self(images)["out"], batch["image"], _common_size(batch), self.network.align_corners

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Count the pixels of a batch.

        Returns:
            The ``prediction``, and, where boundary metrics are due, the ``counts`` of each image; both are for callbacks.
        """
        prediction, mask = self.classes(batch), batch["mask"]
        if not self.boundary_metrics_due():
            self.class_iou.update(prediction, mask)
            return {"prediction": prediction}
        images = zip(torch.split(prediction, 1), torch.split(mask, 1), strict=True)
        return {"prediction": prediction, "counts": [self._count(*image) for image in images]}

    def _count(self, prediction: Tensor, mask: Tensor) -> ImageCounts:
        """Count the pixels of one image (1, H, W) in all metrics."""
        for metric in (self.class_iou, self.boundary_iou, self.boundary_f1, self.trimap):
            metric.update(prediction, mask)
        return ImageCounts(self.class_iou.last_confusion, self.boundary_iou.last_counts)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """As :meth:`validation_step`."""
        return self.validation_step(batch, batch_idx)

    def boundary_metrics_due(self) -> bool:
        """Whether the evaluation that is going on has boundary metrics."""
        if self.trainer.state.fn != "fit":
            return True
        every = self.trainer.check_val_every_n_epoch or 1
        last_epoch = (
            self.trainer.max_epochs not in (None, -1) and self.trainer.current_epoch + every >= self.trainer.max_epochs
        )
        at_end = last_epoch or self.trainer.global_step == self.trainer.max_steps
        return (self.validations + 1) % self.boundary_metrics_every == 0 or at_end

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, with the warm-up and the decay of its learning rate.

        Raises:
            ValueError: If training has no end for the learning rate to decay to.
        """
        if self.trainer.max_steps == -1 and self.trainer.max_epochs in (None, -1):
            raise ValueError(
                "expected an end of training, for the learning rate to decay to; set max_epochs or max_steps"
            )
        optimizer = (self.optimizer or torch.optim.AdamW)(self.parameters())
        schedule = LambdaLR(optimizer, lambda step: self._learning_rate_factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Nothing was evaluated yet."""
        self.scores = None
        self.validations = 0

    def on_train_start(self) -> None:
        """Warn of a warm-up that takes all of the training."""
        if self._total_steps() <= self.warmup_steps:
            rank_zero_warn(
                f"the warm-up of {self.warmup_steps} steps is no shorter than the training of {self._total_steps()}: "
                "the learning rate will not decay; set fewer warmup_steps or train for longer"
            )

    def _log_scores(self, stage: str) -> None:
        """Log what was counted, on every process: it is gathered."""
        if self.trainer.sanity_checking:
            self._reset_metrics()
            return
        iou, confusion = self.class_iou.compute(), self.class_iou.confusion_matrix().cpu()
        means = {"mIoU": iou.nanmean(), **accuracies(confusion)}
        self.scores = Scores(confusion, iou, means)
        if self.boundary_metrics_due():
            self.scores.boundary_iou = self.boundary_iou.compute()
            self.scores.trimap = dict(zip(self.trimap.widths, self.trimap.compute(), strict=True))
            f1 = zip(self.boundary_f1.thresholds, self.boundary_f1.compute(), strict=True)
            means["boundary_IoU"] = self.scores.boundary_iou.nanmean()
            means |= {f"boundary_F1/{threshold:g}px": score for threshold, score in f1}
            means |= {f"trimap_mIoU/{width}px": score for width, score in self.scores.trimap.items()}
        self._reset_metrics()
        self.validations += 1
        logged = dict(means)
        if self.num_classes <= MOST_CLASSES_LOGGED:
            logged |= {f"IoU/{name}": score for name, score in zip(self.class_names, iou, strict=True)}
        for name, score in logged.items():
            score = score.to(self.device, torch.float32)  # not every device has float64
            # All processes have the same score, but Lightning recommends to reduce it. A maximum is exact, a mean is rounded.
            self.log(f"{stage}/{name}", score, prog_bar=name == "mIoU", sync_dist=True, reduce_fx="max")

    def _reset_metrics(self) -> None:
        for metric in (self.class_iou, self.boundary_iou, self.boundary_f1, self.trimap):
            metric.reset()

    def _learning_rate_factor(self, step: int) -> float:
        if step <= self.warmup_steps:
            return min(1.0, (step + 1) / max(1, self.warmup_steps))
        remaining = (self._total_steps() - step) / max(1, self._total_steps() - self.warmup_steps)
        return max(0.0, remaining) ** self.poly_power

    def _total_steps(self) -> int:
        """Optimizer steps of the whole training.

        Not ``trainer.estimated_stepping_batches``: it loads the data too early for a run that resumes within an epoch.
        Here the data is loaded already, as the first step does not need to know.
        """
        limits = [self.trainer.max_steps] if self.trainer.max_steps != -1 else []
        batches = self.trainer.num_training_batches
        if self.trainer.max_epochs not in (None, -1) and math.isfinite(batches):
            limits.append(self.trainer.max_epochs * math.ceil(batches / self.trainer.accumulate_grad_batches))
        return min(limits)


def _common_size(batch: dict[str, Any]) -> tuple[int, int]:
    """The height and width that all images of a batch had before they were resized."""
    if "mask" in batch:
        height, width = batch["mask"].shape[-2:]
        return height, width
    sizes: Tensor = batch["size"]
    if (sizes != sizes[0]).any():
        raise ValueError(
            f"expected images of one size in a batch, got {sizes.tolist()}; predict with an eval_batch_size of 1"
        )
    height, width = sizes[0].tolist()
    return height, width
