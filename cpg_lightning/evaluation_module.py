"""A LightningModule that predicts with a segmentation network and scores its predictions."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from cpg_lightning.data.class_info import ClassInfo
from cpg_lightning.data.loading import common_size
from cpg_lightning.inference import Inference
from cpg_lightning.losses.criterion import SegmentationCriterion
from cpg_lightning.metrics.evaluation import Scores, SegmentationMetrics
from cpg_lightning.networks import SegmentationNetwork

# With more classes, one chart per class clutters the logger; the table stays complete.
MOST_CLASSES_LOGGED = 40


class EvaluationModule(L.LightningModule):
    """Predicts with a segmentation network and scores its predictions.

    It is the part of a :class:`~cpg_lightning.module.SegmentationModule` that ``validate``, ``test`` and ``predict`` run.

    Logged: ``val/mIoU`` and, up to 40 classes, ``val/IoU/<class>``; ``val/pixel_accuracy``, ``val/class_accuracy`` and
    ``val/fwIoU``; ``val/boundary_IoU``, ``val/boundary_F1/<n>px`` and ``val/trimap_mIoU/<n>px``; ``test/...`` likewise. All
    are over the whole dataset, at the labels' own size.

    ``val/loss`` and its terms (``val/ce``, ``val/cpg``) are means over the images of the criterion of the main output alone;
    compare them with ``train/ce`` and ``train/cpg``. An image without a labelled pixel counts with what the criterion gives
    for it, as in training: 0 for cross-entropy and CPG. With sliding windows, several scales or flips there is no ``val/loss``,
    as there are no logits of the whole image.

    Args:
        network: See :class:`~cpg_lightning.module.SegmentationModule`, like all arguments.
        criterion: The criterion of the mean loss.
        classes: The classes of the data.
        image_size: What the data module resizes images to.
        inference: How images are predicted; whole and once if None.
        predict_probabilities: Whether ``predict`` gives probabilities.
        boundary_metrics_every: In training, every n-th validation has boundary metrics.
        evaluation_loss: Whether evaluation has the mean loss.

    Attributes:
        metrics: What the pixels are counted with.
        scores: The scores of the last evaluation; None before the first.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        criterion: SegmentationCriterion,
        classes: ClassInfo,
        image_size: int | tuple[int, int] | None,
        inference: Inference | None,
        predict_probabilities: bool,
        boundary_metrics_every: int,
        evaluation_loss: bool,
    ) -> None:
        super().__init__()
        # A checkpoint holds these as plain values, which load under weights_only=True. Objects are left out.
        self.hparams.update({"classes": classes.plain(), "image_size": image_size})
        self.network = network
        self.criterion = criterion
        self.classes = classes
        self.image_size = image_size
        self.inference = inference or Inference()
        self.predict_probabilities = predict_probabilities
        self.evaluation_loss = evaluation_loss
        terms = criterion.term_names(classes.num_classes)
        self.metrics = SegmentationMetrics(
            classes.num_classes, classes.absent_classes, classes.dilation_ratio, boundary_metrics_every, terms
        )
        self.scores: Scores | None = None
        self.mean: Tensor
        self.std: Tensor
        # In checkpoints too: they may have come with weights that a checkpoint does not fetch again.
        self.register_buffer("mean", 255 * torch.tensor(network.mean).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(network.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The network's logits of images (B, 3, H, W), RGB in 0..255.

        Raises:
            ValueError: If the network has another number of classes than the module.
        """
        normalised = (images - self.mean) / self.std
        logits: dict[str, Tensor] = self.network(normalised.contiguous(memory_format=self.network.memory_format))
        if logits["out"].shape[1] != self.classes.num_classes:
            raise ValueError(
                f"expected the network to have the data's {self.classes.num_classes} classes, got {logits['out'].shape[1]}"
            )
        return logits

    def validation_scores(self) -> list[str]:
        """The names of the scores that validations log, for callbacks that monitor one; a subclass may add its own."""
        losses = self.metrics.loss.names if self._has_loss() else []
        return [f"val/{name}" for name in (*self.metrics.means, *losses, *self._logged_classes())]

    def _has_loss(self) -> bool:
        """Whether evaluations have the mean loss."""
        return self.evaluation_loss and self.inference.one_view

    def _logged_classes(self) -> list[str]:
        """The names of the scores of single classes that are logged."""
        few = self.classes.num_classes <= MOST_CLASSES_LOGGED
        return [f"IoU/{name}" for name in self.classes.names] if few else []

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        """The predicted classes, or the probabilities with ``predict_probabilities``; None for a batch without a readable image."""
        if batch.get("name") == []:
            return None
        if self.predict_probabilities:
            return self.inference.probabilities(*self._evaluated(batch))
        return self.predicted_classes(batch)

    def predicted_classes(self, batch: dict[str, Any]) -> Tensor:
        """The predicted classes (B, H, W) at the labels' own size, which is the images' before they were resized."""
        return self.inference.classes(*self._evaluated(batch))

    def _evaluated(self, batch: dict[str, Any]) -> tuple[Callable[[Tensor], Tensor], Tensor, tuple[int, int], bool]:
        """The arguments of :meth:`Inference.classes` for a batch."""
        return lambda images: self(images)["out"], batch["image"], common_size(batch), self.network.align_corners

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Count the pixels of a batch.

        Returns:
            The ``prediction``, and the ``counts`` of each image, see :meth:`SegmentationMetrics.update`; both are for callbacks.
        """
        prediction, logits = self.inference.classes_and_logits(*self._evaluated(batch))
        if self.metrics.with_loss and logits is not None:
            loss = self.criterion.value(logits, batch["mask"], self.network.align_corners)
            self.metrics.loss.update(loss, self.criterion.terms, len(prediction))
        return {"prediction": prediction, "counts": self.metrics.update(prediction, batch["mask"])}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """As :meth:`validation_step`."""
        return self.validation_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        trainer = self.trainer
        every = trainer.check_val_every_n_epoch or 1
        last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + every >= trainer.max_epochs
        last = last_epoch or trainer.global_step == trainer.max_steps
        self.metrics.begin(trainer.state.fn == "fit", last, loss=self._has_loss())

    def on_test_epoch_start(self) -> None:
        """Start counting."""
        self.metrics.begin(loss=self._has_loss())

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        """Log what was counted, on every process: it is gathered."""
        if self.trainer.sanity_checking:
            self.metrics.reset()
            return
        self.scores = self.metrics.compute()
        self.metrics.reset()
        if stage == "val":
            self.metrics.validations += 1
        logged = self.scores.means | dict(zip(self._logged_classes(), self.scores.iou, strict=False))
        for name, score in logged.items():
            score = score.to(self.device, torch.float32)  # not every device has float64
            # All processes have the same score, but Lightning recommends to reduce it. A maximum is exact, a mean is rounded.
            self.log(f"{stage}/{name}", score, prog_bar=name == "mIoU", sync_dist=True, reduce_fx="max")
