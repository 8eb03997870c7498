"""The LightningModule around any segmentation network and criterion."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cpg_lightning.data.class_info import ClassInfo
from cpg_lightning.data.data_module import SegmentationDataModule
from cpg_lightning.data.steps import Division, recount_batches
from cpg_lightning.evaluation_module import EvaluationModule
from cpg_lightning.inference import Inference
from cpg_lightning.learning_rate import LRSchedule, build_scheduler, check_length, plan_decay
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.losses.criterion import SegmentationCriterion
from cpg_lightning.networks import SegmentationNetwork
from cpg_lightning.optimization import base_lr, build_optimizer, check_lr_factors, evaluate_frozen, freeze_parts
from cpg_lightning.resuming import Progress, check_continued, follow_moved_checkpoints
from cpg_lightning.run_checks import check_arguments, check_data, check_monitors, check_parameters, check_steps
from cpg_lightning.runs.checkpoints import (
    check_classes,
    check_paths,
    check_weights,
    module_arguments,
    read_checkpoint,
    warn_of_other_classes,
)


class SegmentationModule(EvaluationModule):
    r"""Trains and evaluates a segmentation network.

    The training loss is the criterion of the main output. If the network has an auxiliary output, ``aux_weight`` times
    its cross-entropy is added. The learning rate rises linearly during ``warmup_steps`` steps w. It then decays step by step;
    with ``lr_schedule`` ``poly`` or ``cosine`` it reaches 0 at the end of the n steps of the training:

    .. math::
        \eta_i = \eta \min\left(1, \frac{i + 1}{w}\right) d\left(\frac{\max(0, i - w)}{n - w}\right), \quad
        d_{\text{poly}}(t) = (1 - t)^p, \quad d_{\text{cosine}}(t) = \frac{1 + \cos \pi t}{2}, \quad
        d_{\text{constant}}(t) = 1

    Logged: ``train/loss``, the criterion's terms (``train/ce``, ``train/cpg``) and ``lr``. For evaluation, see
    :class:`~cpg_lightning.evaluation_module.EvaluationModule`.

    Args:
        network: Any segmentation network.
        criterion: Any segmentation criterion.
        classes: The classes of the data, e.g. a data module's ``classes``.
        boundary_metrics_every: In training, every n-th validation and the last one compute boundary metrics. If training
            ends early, the last one may lack them. ``validate`` and ``test`` always compute them.
        image_size: Size to which the data module resizes images; used by :class:`~cpg_lightning.predictor.Predictor`, which
            has no data module.
        inference: How images are predicted in evaluation. By default, each whole image is predicted once.
        evaluation_loss: Whether evaluation logs ``val/loss``. It takes time, and memory for the criterion at label size.
        predict_probabilities: Whether ``predict`` returns the probabilities of all classes instead of the classes.
        optimizer: Callable that builds the optimizer from the parameters, e.g.
            ``functools.partial(torch.optim.SGD, lr=0.01)``; ``torch.optim.AdamW`` with its defaults by default.
        lr_factors: Factors of the learning rate for parts of the model, by prefixes of parameter names, e.g.
            ``{"network.classifier": 10}``. The longest matching prefix decides. ``lr`` is logged without the factors.
        decay_norms_and_biases: Whether weight decay also applies to parameters of one dimension (biases, weights of norms).
        freeze: Parts of the model that are not trained, by prefixes, e.g. ``["network.backbone"]``. They stay in evaluation
            mode: their BatchNorms keep their statistics.
        lr_schedule: ``poly``, ``cosine`` or ``constant``, or a callable that builds a scheduler of torch from the optimizer,
            e.g. ``functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1000)``; on the command line, its class path
            and arguments. A scheduler of torch is stepped after each optimizer step, and has no warm-up.
        warmup_steps: Number w of optimizer steps of linear warm-up.
        poly_power: Power p of the polynomial decay.
        aux_weight: Weight of the auxiliary output's cross-entropy.
        weights: File of initial weights of the network: a checkpoint of this package, or a state dict; see
            :meth:`~cpg_lightning.networks.SegmentationNetwork.load_weights`.
        new_classifier: Whether to reinitialise the last layers if the weights have another number of classes.
        compile_network: Whether the Trainer compiles the network in place, see :meth:`torch.nn.Module.compile`. The first
            step takes a minute or more, and new image sizes may too. Checkpoints work with and without it.

    Raises:
        ValueError: If a number is out of range, or the criterion has another ``ignore_index`` than 255, the value in masks.

    Example:
        >>> import lightning as L
        >>> from cpg_lightning.data import ShapesDataModule
        >>> from cpg_lightning.losses import CrossEntropyCPGLoss
        >>> from cpg_lightning.networks import LRASPP
        >>> data = ShapesDataModule()
        >>> module = SegmentationModule(LRASPP(data.num_classes), CrossEntropyCPGLoss(), data.classes)
        >>> L.Trainer(max_epochs=6).fit(module, datamodule=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        criterion: SegmentationCriterion,
        classes: ClassInfo,
        boundary_metrics_every: int = 5,
        image_size: int | tuple[int, int] | None = None,
        inference: Inference | None = None,
        predict_probabilities: bool = False,
        optimizer: OptimizerCallable | None = None,
        lr_factors: dict[str, float] | None = None,
        decay_norms_and_biases: bool = True,
        freeze: list[str] | None = None,
        lr_schedule: LRSchedule = "poly",
        warmup_steps: int = 0,
        poly_power: float = 0.9,
        aux_weight: float = 0.4,
        weights: str | None = None,
        new_classifier: bool = False,
        compile_network: bool = False,
        evaluation_loss: bool = True,
    ) -> None:
        super().__init__(
            network,
            criterion,
            classes,
            image_size,
            inference,
            predict_probabilities,
            boundary_metrics_every,
            evaluation_loss,
        )
        numbers = {"warmup_steps": warmup_steps, "poly_power": poly_power, "aux_weight": aux_weight}
        check_arguments(numbers, image_size, criterion)
        if weights is not None:
            warn_of_other_classes(weights, classes)
            network.load_weights(weights, new_classifier)
        if network.memory_format is not torch.contiguous_format:
            network.to(memory_format=network.memory_format)
        self.optimizer = optimizer
        self.lr_factors = lr_factors or {}
        self.decay_norms_and_biases = decay_norms_and_biases
        self.frozen = freeze or []
        self.lr_schedule = lr_schedule
        self.warmup_steps = warmup_steps
        self.poly_power = poly_power
        self.aux_weight = aux_weight
        self.compile_network = compile_network
        self.progress = Progress()
        self.division: Division | None = None  # how the data module divides the images of a step
        check_lr_factors(self, self.lr_factors)
        freeze_parts(self, self.frozen)

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
        """Build a module for evaluation from a checkpoint.

        A checkpoint is untrusted data. Only the network's class, its plain arguments, the classes and the weights are used.
        A checkpoint cannot choose code to import or files to open. To continue a training, use ``cpg fit --ckpt_path`` or
        ``Trainer.fit(ckpt_path=...)``.

        Args:
            checkpoint_path: The checkpoint file.
            map_location: The module's device.
            network: The network; required if the module of the checkpoint was built in Python.
            criterion: The criterion; :class:`~cpg_lightning.losses.CrossEntropyCPGLoss` by default.
            allow: Class paths outside this package that may be imported, e.g. ``["my_package.MyNetwork"]``.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file is not a checkpoint of this package, ``network`` is missing or does not match the weights,
                or the checkpoint names a class that is not allowed.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        arguments = module_arguments(checkpoint, checkpoint_path, network, allow)
        try:
            module = cls(criterion=criterion or CrossEntropyCPGLoss(), **arguments)
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(
                f"expected the arguments of a module in the checkpoint: {error}: {checkpoint_path}"
            ) from error
        check_weights(module, checkpoint["state_dict"], checkpoint_path)
        module.load_state_dict(checkpoint["state_dict"])
        return module.to(map_location)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state that a continued training needs, e.g. the number of validations for ``boundary_metrics_every``."""
        checkpoint["validations"] = self.metrics.validations
        checkpoint["progress"] = self.progress.state(self.trainer)
        if self.division is not None:
            checkpoint["images_per_batch"] = self.division.images_per_batch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check a checkpoint that a Trainer restores, before the Trainer restores its callbacks.

        Raises:
            ValueError: If the checkpoint has other classes, or paths outside its folder; see
                :func:`~cpg_lightning.runs.checkpoints.check_paths`.
        """
        place = "the checkpoint that the Trainer was given"
        check_paths(checkpoint, place)
        check_classes(self.classes, checkpoint, place)
        self.metrics.validations = int(checkpoint.get("validations", 0))
        if self.trainer.state.fn != "fit":
            return
        self.check_continuation(checkpoint, self.trainer)
        if self.division is not None:
            recount_batches(checkpoint, self.division)
        self.progress.restore(checkpoint)
        follow_moved_checkpoints(checkpoint, self.trainer.checkpoint_callbacks)

    def check_continuation(self, checkpoint: dict[str, Any], trainer: L.Trainer) -> None:
        """Check that the training of a checkpoint continues with the same optimizer and weight averaging, and does not end before it.

        Raises:
            ValueError: If the optimizer differs, a callback that averages weights is missing, or the end is before the checkpoint.
        """
        check_continued(checkpoint, trainer, self._optimization(trainer)[0], isinstance(self.lr_schedule, str))

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation mode. Frozen parts stay in evaluation mode."""
        super().train(mode)
        evaluate_frozen(self, self.frozen)
        return self

    def setup(self, stage: str) -> None:
        """Check the Trainer and the data; see :meth:`check_run`."""
        data = getattr(self.trainer, "datamodule", None)
        self.check_run(self.trainer, data, stage)
        self.division = data.division if stage == "fit" and isinstance(data, SegmentationDataModule) else None
        if stage == "fit":  # before a checkpoint is restored
            self.scores, self.metrics.validations, self.progress = None, 0, Progress()

    def configure_model(self) -> None:
        """Compile the network in place if ``compile_network`` is set.

        Lightning calls this hook in each process, before it wraps the module in DDP.
        """
        # Not in the constructor: a copy in another process would not be compiled. A second call reuses the compiled code.
        if self.compile_network:
            self.network.compile()

    def check_run(self, trainer: L.Trainer, data: L.LightningDataModule | None, stage: str) -> None:
        """Check that a Trainer and data fit this module, before anything is written.

        Raises:
            ValueError: See the functions of :mod:`cpg_lightning.run_checks`.
        """
        if stage == "fit":
            check_monitors(self, trainer.callbacks)  # type: ignore[attr-defined]
            check_parameters(self.network, trainer.world_size)
            self._optimization(trainer)  # raises errors early
        check_data(self, data, stage)
        if stage == "fit":
            check_steps(self.network, data, trainer)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Compute the loss of a batch."""
        logits = self(batch["image"])
        loss = self.criterion(logits["out"], batch["mask"], self.network.align_corners)
        terms = dict(self.criterion.terms)
        if logits.get("aux") is not None:
            aux = self.criterion.auxiliary(logits["aux"], batch["mask"], self.network.align_corners)
            loss = loss + self.aux_weight * aux
            terms["aux"] = aux.detach()
        images = len(batch["image"])
        # After every step, Lightning reads the values of the progress bar, even without one. Reading waits for the device.
        bar = self.trainer.progress_bar_callback
        shown = bool(getattr(bar, "is_enabled", bar is not None))
        self.log("train/loss", loss.detach(), prog_bar=shown, batch_size=images)
        self.log_dict({f"train/{name}": term for name, term in terms.items()}, batch_size=images)
        # The device fills this tensor. Copying a number to the device would make the host wait.
        rate = base_lr(self.trainer.optimizers[0])
        self.log("lr", torch.full((), rate, dtype=torch.float32, device=self.device), batch_size=images)
        return loss

    def on_validation_epoch_end(self) -> None:
        """Log the scores, and store the index of the last training batch."""
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            self.progress.validated_batch = self.trainer.fit_loop.total_batch_idx

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its scheduler; see :func:`~cpg_lightning.learning_rate.build_scheduler`."""
        optimizer, schedule = self._optimization(self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _optimization(self, trainer: L.Trainer) -> tuple[Optimizer, LRScheduler]:
        """Build an optimizer and its scheduler."""
        optimizer = build_optimizer(self, self.optimizer, self.lr_factors, self.decay_norms_and_biases)
        plan = self.progress.plan
        scheduler = build_scheduler(self.lr_schedule, optimizer, trainer, self.warmup_steps, self.poly_power, plan)
        return optimizer, scheduler

    def on_train_start(self) -> None:
        """Plan the decay of the learning rate, and compare the schedule with the length of the training."""
        plan_decay(self.progress.plan, self.trainer, self.lr_schedule, self.warmup_steps)
        for config in self.trainer.lr_scheduler_configs:
            check_length(self.trainer, config.scheduler, self.lr_schedule, self.warmup_steps)
