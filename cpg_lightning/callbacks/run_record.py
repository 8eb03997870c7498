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

from cpg_lightning.callbacks.columns import columns
from cpg_lightning.callbacks.costs import Costs
from cpg_lightning.data.paths import expanded
from cpg_lightning.runs.folder import RunFolder
from cpg_lightning.runs.identity import class_name


class RunRecord(SaveConfigCallback):
    """Saves the configuration and the summary of a run in its folder, and what a person filters by in its loggers.

    Args:
        parser: The parser of the configuration.
        config: The configuration as it runs.
        record: The configuration as it was given, without what only this run has: this is saved, with the absolute path of
            the data, so that it can be used from any folder.
        obstacle: Why Weights & Biases cannot be online, in words.
        training: Id of the training that is evaluated.
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
        arguments = record.data.init_args
        if isinstance(arguments.get("root"), str | Path):
            arguments.root = str(expanded(arguments.root).absolute())

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Save the configuration, and log what a person filters by."""
        dump = self.parser.dump(self.record, skip_none=False)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.yaml"
        if path.is_file() and path.read_text() != dump:  # of the same run, before it was continued
            path.rename(folder / f"config-{len(list(folder.glob('config*.yaml')))}.yaml")
        path.write_text(dump)
        training = {} if self.training is None else {"training": self.training}
        for logger in trainer.loggers:
            logger.log_hyperparams({**columns(trainer, pl_module), **_recipe(yaml.safe_load(dump)), **training})
            if isinstance(logger, WandbLogger) and logger.experiment.settings.mode == "offline":
                run = Path(logger.experiment.dir).parent
                reason = "" if self.obstacle is None else f"{self.obstacle}, "
                print(f"W&B: {reason}logging offline to {run}; upload with: wandb sync {run}")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write ``summary.json`` and print what to do next, unless a limit of time has stopped the training."""
        timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
        remaining = [each.time_remaining() for each in timers]
        if not trainer.is_global_zero or any(seconds is not None and seconds <= 0 for seconds in remaining):
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


def best_of(trainer: L.Trainer) -> dict[str, float]:
    """The best score of the run and its epoch, by the state of the checkpoint callback that monitors it."""
    for callback in trainer.checkpoint_callbacks:
        monitor, score = getattr(callback, "monitor", None), getattr(callback, "best_model_score", None)
        if monitor and score is not None:
            checkpoint = Path(getattr(callback, "best_model_path", ""))
            epoch = next((part for part in checkpoint.stem.split("-") if part.startswith("epoch=")), "")
            best = {monitor.removeprefix("val/"): float(score)}
            return {**best, "epoch": int(epoch.removeprefix("epoch="))} if epoch[6:].isdigit() else best
    return {}


def _recipe(config: dict[str, Any]) -> dict[str, Any]:
    """Columns of the recipe in a configuration, which an evaluation has too."""
    optimizer = config["model"].get("optimizer") or {}
    optimizer = optimizer if isinstance(optimizer, dict) else {"class_path": str(optimizer)}
    return {
        "optimizer": class_name(optimizer.get("class_path") or "torch.optim.AdamW"),
        "learning_rate": (optimizer.get("init_args") or optimizer).get("lr"),
        "seed": config.get("seed_everything"),
    }


def versions() -> dict[str, str]:
    """The versions that a run was made with."""
    return {name: version(name) for name in ("cpg_lightning", "torch", "lightning")}
