"""Records a run: its configuration, its summary, and its columns in Weights & Biases."""

from __future__ import annotations

import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from cpg_lightning.callbacks.columns import filter_columns
from cpg_lightning.callbacks.costs import Costs
from cpg_lightning.data.paths import expanded
from cpg_lightning.initial_weights import make_paths_absolute
from cpg_lightning.module import SegmentationModule
from cpg_lightning.optimization import DEFAULT_OPTIMIZER
from cpg_lightning.runs.folder import CONFIG, RunFolder
from cpg_lightning.runs.naming import class_name


class RunRecord(SaveConfigCallback):
    """Saves the configuration and the summary of a run in its folder, and logs columns for filtering to its loggers.

    Args:
        parser: The parser of the configuration.
        config: The configuration of this run.
        record: The configuration to save. It lacks options that belong to this run alone, such as its folder. The paths
            of the data and of initial weights are saved as absolute paths, so that the file works in any folder.
        obstacle: Why Weights & Biases cannot be online; None if it can.
        training: Id of the evaluated training.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Namespace,
        record: Namespace,
        obstacle: str | None = None,
        training: str | None = None,
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.record = record
        self.obstacle = obstacle
        self.training = training
        arguments = record.data.get("init_args", {})
        if isinstance(arguments.get("root"), str | Path):
            arguments.root = str(expanded(arguments.root).absolute())
        make_paths_absolute(record.model)

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Save the configuration, and log the columns for filtering."""
        dump = self.parser.dump(self.record, skip_unset=False, skip_validation=True)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / CONFIG
        if path.is_file() and path.read_text() != dump:  # the configuration before the run was continued
            path.rename(folder / f"config-{len(list(folder.glob('config*.yaml')))}.yaml")
        path.write_text(dump)
        training = {} if self.training is None else {"training": self.training}
        for logger in trainer.loggers:
            logger.log_hyperparams({**filter_columns(trainer, pl_module), **_recipe(yaml.safe_load(dump)), **training})
            if isinstance(logger, WandbLogger) and logger.experiment.settings.mode == "offline":
                run = Path(logger.experiment.dir).parent
                reason = "" if self.obstacle is None else f"{self.obstacle}, "
                print(f"W&B: {reason}logging offline to {run}; upload with: wandb sync {run}")

    def on_fit_end(self, trainer: L.Trainer, pl_module: SegmentationModule) -> None:  # type: ignore[override]
        """Mark the run as finished, unless a time limit stopped it, or its last validation is still to be repeated."""
        timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
        remaining = [each.time_remaining() for each in timers]
        stopped = any(seconds is not None and seconds <= 0 for seconds in remaining) and not is_complete(trainer)
        if not stopped and not lacks_scores(trainer, pl_module):
            self.finish(trainer)

    def finish(self, trainer: L.Trainer) -> None:
        """Write ``summary.json``, which marks the run as finished, and print the next commands."""
        if not trainer.is_global_zero:
            return
        scores = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        summary: dict[str, Any] = {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "scores": scores,
            "best": best_of(trainer),
            "costs": next((each.summary for each in trainer.callbacks if isinstance(each, Costs)), {}),  # type: ignore[attr-defined]
        }
        RunFolder(trainer.default_root_dir).write("summary.json", summary)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update({f"best/{name}": value for name, value in summary["best"].items()})
        for use, subcommand in (("evaluate", "validate"), ("predict", "predict")):
            print(f"{use} with the best checkpoint: cpg {subcommand} --run {shlex.quote(trainer.default_root_dir)}")


def is_complete(trainer: L.Trainer) -> bool:
    """Whether a training has reached ``max_epochs`` or ``max_steps``."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    return (epochs not in (None, -1) and trainer.current_epoch >= epochs) or trainer.global_step >= steps > 0


def lacks_scores(trainer: L.Trainer, module: SegmentationModule) -> bool:
    """Whether a complete training was continued, so that nothing was left to train, and nothing was validated.

    A kill after the last checkpoint leaves such a run: its last validation was not reported yet.
    """
    continued = trainer.ckpt_path is not None
    return continued and module.scores is None and trainer.enable_validation and is_complete(trainer)


def repeat_last_validation(trainer: L.Trainer, module: SegmentationModule) -> None:
    """After the Trainer's ``fit``, validate and finish a run for which :func:`lacks_scores` is true."""
    if trainer.state.fn == "fit" and lacks_scores(trainer, module):
        rank_zero_info("nothing is left to train; the last validation is repeated, because its report is missing")
        (record,) = (each for each in trainer.callbacks if isinstance(each, RunRecord))  # type: ignore[attr-defined]
        # With the checkpoint: in a SLURM job, Lightning would read an older one in the folder instead.
        trainer.validate(module, trainer.datamodule, trainer.ckpt_path, verbose=False)  # type: ignore[attr-defined]
        record.finish(trainer)


def best_of(trainer: L.Trainer) -> dict[str, float]:
    """Return the best score of the run and its epoch, from the checkpoint callback that monitors the score."""
    for callback in trainer.checkpoint_callbacks:
        monitor, score = getattr(callback, "monitor", None), getattr(callback, "best_model_score", None)
        if monitor and score is not None:
            checkpoint = Path(getattr(callback, "best_model_path", ""))
            epoch = next((part for part in checkpoint.stem.split("-") if part.startswith("epoch=")), "")
            best = {monitor.removeprefix("val/"): float(score)}
            return {**best, "epoch": int(epoch.removeprefix("epoch="))} if epoch[6:].isdigit() else best
    return {}


def _recipe(config: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of the recipe in a configuration. An evaluation logs them too."""
    optimizer = config["model"].get("optimizer") or {}
    optimizer = optimizer if isinstance(optimizer, dict) else {"class_path": str(optimizer)}
    return {
        "optimizer": class_name(optimizer.get("class_path") or DEFAULT_OPTIMIZER.__name__),
        "learning_rate": (optimizer.get("init_args") or optimizer).get("lr"),
        "seed": config.get("seed_everything"),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages."""
    return {name: version(name) for name in ("cpg_lightning", "torch", "lightning")}
