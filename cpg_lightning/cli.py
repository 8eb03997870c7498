"""The cpg command: LightningCLI with links from the data to the model, and runs that name and record themselves."""

import os
import secrets
import sys
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import lightning as L
import torch
import wandb
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

import cpg_lightning

# Imported classes are those that the command line knows by their short names.
from cpg_lightning.callbacks import PredictionWriter, ValidationReport  # noqa: F401
from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.losses import SegmentationCriterion
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import SegmentationNetwork


def main(args: ArgsType = None, run: bool = True) -> "SegmentationCLI":
    """Run the command line from Python.

    Args:
        args: The arguments, ``sys.argv`` by default.
        run: Whether to run a subcommand. Without, the arguments have none, and everything is built and nothing run.

    Returns:
        The command line, with ``model``, ``datamodule`` and ``trainer``.
    """
    return SegmentationCLI(
        SegmentationModule,
        SegmentationDataModule,
        subclass_mode_data=True,
        save_config_callback=RunRecord,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={
            "prog": "cpg",
            "description": _description(),
            "version": cpg_lightning.__version__,
            # In place of every option there is, which would bury an error's message.
            **{name: {"usage": f"cpg {name} --config FILE [options]"} for name in SegmentationCLI.subcommands()},
        },
        args=args,
        run=run,
    )


def command() -> None:
    """The ``cpg`` command: :func:`main`, but bad input ends in its message alone."""
    try:
        main()
    except (ValueError, OSError, MisconfigurationException) as error:
        if os.environ.get("CPG_TRACEBACK"):
            raise
        # From a worker process an error arrives with the worker's traceback before its message.
        message = str(error).rsplit(f"{type(error).__name__}: ", maxsplit=1)[-1].strip()
        sys.exit(f"cpg: {message}\n(CPG_TRACEBACK=1 shows where)")


class SegmentationCLI(LightningCLI):
    """LightningCLI whose data tells the model its classes, and whose every run has a name and a folder of its own."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the facts of the dataset to whatever needs them."""
        for fact in ("num_classes", "ignore_index", "class_names", "palette"):
            parser.link_arguments(f"data.{fact}", f"model.{fact}", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.network.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("data.ignore_index", "model.criterion.init_args.ignore_index", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Give the run its name, its folder and its place in Weights & Biases."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        record = config.clone()
        for argument in set(vars(record)) - {"seed_everything", "trainer", "model", "data"}:
            del record[argument]  # the subcommand's own, such as ckpt_path
        checkpoint = _existing(config.get("ckpt_path"))
        run_id = _run_id(checkpoint) if self.subcommand == "fit" and checkpoint else secrets.token_hex(4)
        setting = _setting(config)
        name = f"{setting}-seed{config.seed_everything}"
        if self.subcommand not in (None, "fit"):
            name = f"{self.subcommand}-{name}"
        logger = config.trainer.get("logger")
        if _is_wandb(logger):
            name = logger.init_args.name or name
        folder = _writable(Path(config.trainer.default_root_dir or "runs")) / f"{name}-{run_id}"

        config.trainer.default_root_dir = str(folder)
        if self.subcommand == "predict" and config.return_predictions is None:
            config.return_predictions = False  # they are written, not collected
        without_key = False
        if _is_wandb(logger):
            # An offline table waits there for its upload: it has to outlive the run.
            os.environ.setdefault("WANDB_DATA_DIR", str(folder.parent.absolute()))
            options = logger.init_args
            without_key = not _has_api_key()
            options.name, options.id, options.save_dir = name, run_id, str(folder.absolute())
            options.group = options.group or setting
            options.job_type = options.job_type or self.subcommand
            if without_key and not options.mode and "WANDB_MODE" not in os.environ:
                options.mode = "offline"
        for callback in config.trainer.get("callbacks") or []:
            if callback.class_path.endswith(".ModelCheckpoint") and not callback.init_args.dirpath:
                callback.init_args.dirpath = str(folder / "checkpoints")
        self.save_config_kwargs = {"record": record, "run_id": run_id, "without_key": without_key}

    def after_instantiate_classes(self) -> None:
        """Look at the data before anything is written, then make the run's folder."""
        if self.subcommand:
            self.datamodule.setup(self.subcommand)
            rank_zero_only(Path(self.trainer.default_root_dir).mkdir)(parents=True, exist_ok=True)

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone.

        LightningCLI would overwrite it, and the command line with it, by the hyperparameters in the checkpoint. The
        configuration that goes with a checkpoint is in the folder of its run.
        """


class RunRecord(SaveConfigCallback):
    """Saves the configuration with the run, and in its loggers as flat columns; remembers the run's id in checkpoints.

    Args:
        parser: What wrote the configuration.
        config: The configuration as it runs.
        record: The configuration as it was given, without what only this run has: what is saved.
        run_id: Id of the run.
        without_key: Whether there is no API key for Weights & Biases.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, record: Namespace, run_id: str, without_key: bool
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.record = record
        self.run_id = run_id
        self.without_key = without_key

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Save and log the configuration."""
        dump = self.parser.dump(self.record, skip_none=False)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        earlier = len(list(folder.glob("config*.yaml")))  # of the same run, before it was resumed
        (folder / (f"config-{earlier}.yaml" if earlier else "config.yaml")).write_text(dump)
        for logger in trainer.loggers:
            logger.log_hyperparams(flat(yaml.safe_load(dump)))
            if isinstance(logger, WandbLogger) and logger.experiment.settings.mode == "offline":
                run = Path(logger.experiment.dir).parent
                reason = "no API key, logging" if self.without_key else "logging"
                print(f"W&B: {reason} offline to {run}; upload with: wandb sync {run}")

    def state_dict(self) -> dict[str, Any]:
        """The id of the run, by which it is resumed."""
        return {"run_id": self.run_id}


def _description() -> str:
    """What ``cpg --help`` begins with."""
    families: dict[str, type[Any]] = {
        "data": SegmentationDataModule,
        "networks": SegmentationNetwork,
        "criteria": SegmentationCriterion,
    }
    names = {title: sorted(known.__name__ for known in family.__subclasses__()) for title, family in families.items()}
    known = " ".join(f"{title}: {', '.join(classes)}." for title, classes in names.items())
    return (
        "Trains and evaluates segmentation networks with boundary-aware losses. Known by their short names, and others by "
        f"their class path: {known} First run: cpg fit --config experiments/quickstart.yaml"
    )


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as columns with dotted names.

    Example:
        >>> flat({"model": {"warmup_steps": 50}, "seed_everything": 0})
        {'model.warmup_steps': 50, 'seed_everything': 0}
    """
    columns: dict[str, Any] = {}
    for key, value in config.items():
        columns |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return columns


def _setting(config: Namespace) -> str:
    """What a run trains, from the parts of its configuration, e.g. ``camvid-lraspp-ce+cpg``."""
    data, network, criterion = (
        part.class_path.rsplit(".", 1)[-1] for part in (config.data, config.model.network, config.model.criterion)
    )
    weight = config.model.criterion.init_args.get("cpg_weight")
    loss = criterion.removesuffix("Loss").lower() if weight is None else "ce+cpg" if weight else "ce"
    return f"{data.removesuffix('DataModule').lower()}-{network.lower()}-{loss}"


def _is_wandb(logger: Any) -> bool:
    return isinstance(logger, Namespace) and logger.class_path.endswith(".WandbLogger")


def _existing(checkpoint: str | None) -> str | None:
    """The path of a checkpoint, if it is one."""
    if checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f"expected --ckpt_path to be a checkpoint file, got {checkpoint}; they are in runs/<name of the run>/checkpoints"
        )
    return checkpoint


def _run_id(checkpoint: str) -> str:
    """The id of the run that wrote a checkpoint."""
    try:
        callbacks = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["callbacks"]
    except Exception as error:  # whatever a file that is no checkpoint makes torch raise
        raise ValueError(f"expected a checkpoint that can be read, got {checkpoint}: {error}") from error
    return callbacks.get("RunRecord", {}).get("run_id") or secrets.token_hex(4)


def _writable(folder: Path) -> Path:
    """The folder of all runs, if this run's can be made in it."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise ValueError(
            f"expected a folder that can be written to, got {folder} ({nearest} is none); "
            "choose another with --trainer.default_root_dir"
        )
    return folder


def _has_api_key() -> bool:
    """Whether Weights & Biases could log in; asks neither the user nor the network."""
    settings = wandb.setup().settings
    if settings.api_key or settings.identity_token_file:
        return True
    try:
        return netrc(os.environ.get("NETRC")).authenticators(urlparse(settings.base_url).hostname or "") is not None
    except (OSError, NetrcParseError):
        return False
