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

    ``validate``, ``test`` and ``predict`` use only this part of a :class:`~cpg_lightning.module.SegmentationModule`.

    Logged: ``val/mIoU`` and, up to 40 classes, ``val/IoU/<class>``; ``val/pixel_accuracy``, ``val/class_accuracy`` and
    ``val/fwIoU``; ``val/boundary_IoU``, ``val/boundary_F1/<n>px`` and ``val/trimap_mIoU/<n>px``; likewise ``test/...``. All
    scores are over the whole dataset, at the size of the label files.

    ``val/loss`` and its terms (``val/ce``, ``val/cpg``) are means of the criterion over the images. They include the main
    output only; compare them with ``train/ce`` and ``train/cpg``. An image without a labelled pixel counts with the value
    of the criterion, as in training: 0 for cross-entropy and CPG. With sliding windows, several scales or flips, there are
    no logits of the whole image, and ``val/loss`` is not logged.

    Args:
        network: See :class:`~cpg_lightning.module.SegmentationModule`, like all arguments.
        criterion: The criterion of the mean loss.
        classes: The classes of the data.
        image_size: Size to which the data module resizes images.
        inference: How images are predicted. If None, each whole image is predicted once.
        predict_probabilities: Whether ``predict`` returns probabilities.
        boundary_metrics_every: In training, every n-th validation computes boundary metrics.
        evaluation_loss: Whether evaluation computes the mean loss.

    Attributes:
        metrics: The metrics of the evaluation.
        scores: The scores of the last evaluation; None before the first one.
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
        # Checkpoints contain plain values only, so that they load with weights_only=True.
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
        # Saved in checkpoints: they may come from pretrained weights, which are not loaded together with a checkpoint.
        self.register_buffer("mean", 255 * torch.tensor(network.mean).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(network.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the network's logits of images (B, 3, H, W), RGB in 0..255.

        Raises:
            ValueError: If the network has another number of classes than the module.
        """
        # The precision of the weights. Resized images are float32, also for weights of half precision.
        normalised = ((images - self.mean) / self.std).to(self.mean.dtype)
        logits: dict[str, Tensor] = self.network(normalised.contiguous(memory_format=self.network.memory_format))
        if logits["out"].shape[1] != self.classes.num_classes:
            raise ValueError(
                f"expected the network to have the data's {self.classes.num_classes} classes, got {logits['out'].shape[1]}"
            )
        return logits

    def validation_scores(self) -> list[str]:
        """Return the names of all scores that a validation can log. Callbacks may monitor these. Subclasses may add more."""
        losses = self.metrics.loss.names if self._has_loss() else []
        return [f"val/{name}" for name in (*self.metrics.means, *losses, *self._logged_classes())]

    def _has_loss(self) -> bool:
        """Whether evaluation computes the mean loss."""
        return self.evaluation_loss and self.inference.one_view

    def _logged_classes(self) -> list[str]:
        """Names of the logged scores of single classes."""
        few = self.classes.num_classes <= MOST_CLASSES_LOGGED
        return [f"IoU/{name}" for name in self.classes.names] if few else []

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        """Return the predicted classes, or probabilities with ``predict_probabilities``. None if no image can be read."""
        if batch.get("name") == []:
            return None
        if self.predict_probabilities:
            return self.inference.probabilities(*self._evaluated(batch))
        return self.predicted_classes(batch)

    def predicted_classes(self, batch: dict[str, Any]) -> Tensor:
        """Return the predicted classes (B, H, W) at the size of the label files, the images' size before resizing."""
        return self.inference.classes(*self._evaluated(batch))

    def _evaluated(self, batch: dict[str, Any]) -> tuple[Callable[[Tensor], Tensor], Tensor, tuple[int, int], bool]:
        """The arguments of :meth:`Inference.classes` for a batch."""
        return lambda images: self(images)["out"], batch["image"], common_size(batch), self.network.align_corners

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Count the pixels of a batch.

        Returns:
            For callbacks: the ``prediction``, and the ``counts`` of each image; see :meth:`SegmentationMetrics.update`.
        """
        prediction, logits = self.inference.classes_and_logits(*self._evaluated(batch))
        if self.metrics.with_loss and logits is not None:
            loss = self.criterion.value(logits, batch["mask"], self.network.align_corners)
            self.metrics.loss.update(loss, self.criterion.terms, len(prediction))
        return {"prediction": prediction, "counts": self.metrics.update(prediction, batch["mask"])}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """See :meth:`validation_step`."""
        return self.validation_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics."""
        trainer = self.trainer
        every = trainer.check_val_every_n_epoch or 1
        last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + every >= trainer.max_epochs
        last = last_epoch or trainer.global_step == trainer.max_steps
        self.metrics.begin(trainer.state.fn == "fit", last, loss=self._has_loss())

    def on_test_epoch_start(self) -> None:
        """Reset the metrics."""
        self.metrics.begin(loss=self._has_loss())

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        """Log the scores. Every process must call this, because the metrics are synchronised."""
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
            # All processes have the same score. Lightning warns without sync_dist. The maximum is exact; a mean is rounded.
            self.log(f"{stage}/{name}", score, prog_bar=name == "mIoU", sync_dist=True, reduce_fx="max")
