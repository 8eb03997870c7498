"""The cpg command: LightningCLI with links from the data to the model, and runs that name and record themselves."""

import io
import json
import os
import secrets
import sys
import traceback
from hashlib import sha256
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlparse

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

import cpg_lightning

# Imported classes are those that the command line knows by their short names.
from cpg_lightning.callbacks import EvaluationReport, PredictionWriter  # noqa: F401
from cpg_lightning.check_data import check_data
from cpg_lightning.checkpoints import check_classes, check_weights, read_checkpoint, run_of
from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.data.paths import expanded
from cpg_lightning.data.predicted import PredictionRecord, file_digest, weights_digest
from cpg_lightning.losses import SegmentationCriterion
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import SegmentationNetwork
from cpg_lightning.parsing import (
    YAML,
    Parser,
    check_callables,
    check_trainer,
    configured,
    imported,
    message_of,
    raised_first,
    subclasses,
)


def main(args: ArgsType = None, run: bool = True) -> "SegmentationCLI":
    """Run the command line from Python.

    ``check-data`` needs no Trainer: it is :func:`~cpg_lightning.check_data.check_data`, whose status this exits with.

    Args:
        args: The arguments, ``sys.argv`` by default.
        run: Whether to run a subcommand. Without, the arguments have none, and everything is built and nothing run.

    Returns:
        The command line, with ``model``, ``datamodule`` and ``trainer``.
    """
    arguments = sys.argv[1:] if args is None else args
    if isinstance(arguments, list) and arguments[:1] == ["check-data"]:
        sys.exit(check_data(arguments[1:]))
    opened_before = _open_run()
    try:
        return SegmentationCLI(
            SegmentationModule,
            SegmentationDataModule,
            subclass_mode_data=True,
            save_config_callback=RunRecord,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={
                "parser_mode": YAML,
                "prog": "cpg",
                "description": _description(),
                "version": cpg_lightning.__version__,
                # In place of every option there is, which would bury an error's message.
                **{
                    name: {"usage": f"cpg {name} --config FILE [options]", "parser_mode": YAML}
                    for name in SegmentationCLI.subcommands()
                },
            },
            args=args,
            run=run,
        )
    except ValueError as error:
        first = raised_first(error)
        if first is error:
            raise
        raise first from None
    finally:
        # Or the next run of this process would be logged into this one. A run of the caller's stays open.
        opened = _open_run()
        if run and opened is not None and opened is not opened_before:
            opened.finish(exit_code=int(sys.exc_info()[0] is not None))


def command() -> None:
    """The ``cpg`` command: :func:`main`, but bad input ends in its message alone."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may have bytes that cannot be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except _bad_input() as error:
        if os.environ.get("CPG_TRACEBACK"):
            raise
        sys.exit(f"cpg: {message_of(error)}\n(CPG_TRACEBACK=1 shows where)")


class SegmentationCLI(LightningCLI):
    """LightningCLI whose data tells the model its classes, and whose every run has a name and a folder of its own."""

    checkpoint: dict[str, Any] | None
    staging: ClassVar[str | None] = None  # the WANDB_DATA_DIR that an earlier run of this process set

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the facts of the dataset to whatever needs them."""
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
        parser.link_arguments("data.image_size", "model.image_size", apply_on="instantiate")
        parser.add_argument(
            "--output",
            type=str | None,
            help="where predict writes, leaving out the images that are predicted there; a folder of the run by default",
        )
        parser.add_argument(
            "--overwrite",
            type=bool,
            default=False,
            help="whether predict predicts all images again, and writes over files",
        )
        parser.link_arguments("data.num_classes", "model.network.init_args.num_classes", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Give the run its name, its folder and its place in Weights & Biases."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        record = config.clone()
        for argument in set(vars(record)) - {"seed_everything", "trainer", "model", "data"}:
            del record[argument]  # the subcommand's own, such as ckpt_path
        check_callables(config)
        check_trainer(config.trainer)
        path = config.get("ckpt_path")
        self.checkpoint = None if path is None else read_checkpoint(path, training=self.subcommand == "fit")
        if self.checkpoint:
            _drop_pretrained(config.model)
        if self.subcommand == "predict" and config.return_predictions is None:
            config.return_predictions = False  # they are written, not collected
        if config.output is not None or config.overwrite:
            self._check_output(config)

        loggers = _wandb_loggers(config.trainer)
        name, run_id = self._name(config, loggers)
        folder = Path(config.trainer.default_root_dir or "runs") / f"{name}-{run_id}"
        config.trainer.default_root_dir = str(folder)
        for callback in configured(config.trainer.get("callbacks")):
            if callback.class_path.endswith(".ModelCheckpoint") and not callback.init_args.dirpath:
                callback.init_args.dirpath = str(folder / "checkpoints")
        without_key = bool(loggers) and not self._prepare_wandb(folder)
        for logger in loggers:
            logger.name, logger.id = name, run_id
            logger.save_dir = str(folder.absolute()) if logger.save_dir == "." else logger.save_dir
            logger.group = logger.group or _setting(config)
            logger.job_type = logger.job_type or self.subcommand
            if without_key and not logger.mode and "WANDB_MODE" not in os.environ:
                logger.mode = "offline"
        self.save_config_kwargs = {"record": record, "run": [name, run_id], "without_key": without_key}

    def instantiate_classes(self) -> None:
        """Build everything, and let checkpoints describe the network."""
        super().instantiate_classes()
        config = yaml.safe_load(self.parser.dump(self.config))
        network = (config[self.subcommand] if self.subcommand else config)["model"]["network"]
        arguments = self.model.network.checkpoint_arguments(network.get("init_args", {}))
        self.model.hparams["network"] = {"class_path": network["class_path"], "init_args": arguments}

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        """Build the Trainer.

        Raises:
            ValueError: For options that it refuses, and if two callbacks would keep their state under one name.
        """
        try:
            return super().instantiate_trainer(**options)
        except TypeError as error:
            raise ValueError(f"expected options that the Trainer takes: {error}") from error
        except RuntimeError as error:
            if "stateful callback" not in str(error):
                raise
            raise ValueError(
                "expected callbacks of one class to differ in what they monitor, got two alike; base.yaml has a ModelCheckpoint "
                "for val/mIoU and one for the latest epoch: to change their options, list trainer.callbacks anew in a file"
            ) from error

    def after_instantiate_classes(self) -> None:
        """Look at the checkpoint and the data before anything is written, then make the run's folder."""
        if not self.subcommand:
            return
        self.model.check_run(self.trainer, self.datamodule, self.subcommand)
        if self.checkpoint:
            path = self._get(self.config, "ckpt_path")
            check_classes(self.model.classes, self.checkpoint, path)
            check_weights(self.model, self.checkpoint["state_dict"], path)
            self.checkpoint = None  # its weights have been looked at: the Trainer reads the file itself
        elif self.subcommand != "fit":
            rank_zero_warn(f"without --ckpt_path, {self.subcommand} takes the weights that the network is built with")
        if self.config[self.subcommand].output is not None:
            self._record_predictions()
        self.datamodule.setup(self.subcommand)
        rank_zero_only(_make)(Path(self.trainer.default_root_dir))

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the subcommand.

        Raises:
            ValueError: If the state in a checkpoint cannot be restored.
        """
        done = self.datamodule.predicted
        if done is not None and done.left_out:
            rank_zero_info(
                f"{done.left_out} images are predicted in {done.folder} already and left out; --overwrite true predicts them "
                "again"
            )
            if not done.identities:
                return
        try:
            super()._run_subcommand(subcommand)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            restoring = any(
                "restore" in frame.name and frame.filename.endswith("checkpoint_connector.py")
                for frame in traceback.extract_tb(error.__traceback__)
            )
            if not restoring:
                raise
            raise ValueError(
                f"expected a checkpoint with the whole state of training, got one whose state cannot be restored "
                f"({type(error).__name__}: {error}): {self._get(self.config, 'ckpt_path')}"
            ) from error

    def _check_output(self, config: Namespace) -> None:
        writers = [
            each for each in configured(config.trainer.callbacks) if each.class_path.endswith(".PredictionWriter")
        ]
        if self.subcommand != "predict" or len(writers) != 1:
            raise ValueError(
                "expected --output and --overwrite with predict and one PredictionWriter among its callbacks, got them without"
            )
        if config.output is not None:
            writers[0].init_args.folder = str(expanded(config.output))

    def _record_predictions(self) -> None:
        """Let the images that are predicted in ``--output`` already be left out."""
        config = self.config[self.subcommand]
        (writer,) = (each for each in self.trainer.callbacks if isinstance(each, PredictionWriter))  # type: ignore[attr-defined]
        kinds = [*writer.kinds, *(["probabilities"] if self.model.predict_probabilities else [])]
        record = PredictionRecord(writer.folder or "", self._prediction_settings(kinds), kinds, config.overwrite)
        writer.record = self.datamodule.predicted = record

    def _prediction_settings(self, kinds: list[str]) -> str:
        """A digest of all that decides a prediction besides the image."""
        config = yaml.safe_load(self.parser.dump(self.config))[self.subcommand]
        path = config.get("ckpt_path")
        weights = weights_digest(self.model.network.state_dict()) if path is None else file_digest(path)
        model = {name: config["model"].get(name) for name in ("network", "inference")}
        facts = [self.datamodule.classes.plain(), self.datamodule.label_values]
        parts = [weights, model, self.model.image_size, facts, kinds, config["trainer"].get("precision")]
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _name(self, config: Namespace, loggers: list[Namespace]) -> tuple[str, str]:
        """The name and the id of the run: those of the run that is continued, else the user's, else new ones."""
        continued = run_of(self.checkpoint, config.ckpt_path) if self.checkpoint and self.subcommand == "fit" else None
        if continued is not None:
            return continued
        name = next((logger.name for logger in loggers if logger.name), None)
        name = (name or f"{_setting(config)}-seed{config.seed_everything}").replace("/", "-")
        run_id = next((logger.id for logger in loggers if logger.id), secrets.token_hex(4))
        return (name if self.subcommand in (None, "fit") else f"{self.subcommand}-{name}"), run_id

    @classmethod
    def _prepare_wandb(cls, folder: Path) -> bool:
        """Keep what Weights & Biases stages with its run; says whether there is an API key."""
        # Offline tables wait in this folder for their upload, so it has to be where the run is, unless the user chose.
        if os.environ.get("WANDB_DATA_DIR") in (None, cls.staging):
            cls.staging = os.environ["WANDB_DATA_DIR"] = str(folder.absolute())
        return _has_api_key()

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone.

        LightningCLI would overwrite it, and the command line with it, by the hyperparameters in the checkpoint. The
        configuration that goes with a checkpoint is in the folder of its run.
        """


class RunRecord(SaveConfigCallback):
    """Saves the configuration with the run, and in its loggers as flat columns; remembers the run in checkpoints.

    Args:
        parser: What wrote the configuration.
        config: The configuration as it runs.
        record: The configuration as it was given, without what only this run has: what is saved.
        run: Name and id of the run.
        without_key: Whether there is no API key for Weights & Biases.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, record: Namespace, run: list[str], without_key: bool
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.record = record
        self.run = run
        self.without_key = without_key

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Save and log the configuration."""
        dump = self.parser.dump(self.record, skip_none=False)
        folder = Path(trainer.default_root_dir)
        _make(folder)
        earlier = len(list(folder.glob("config*.yaml")))  # of the same run, before it was resumed
        (folder / (f"config-{earlier}.yaml" if earlier else "config.yaml")).write_text(dump)
        for logger in trainer.loggers:
            logger.log_hyperparams(flat(yaml.safe_load(dump)))
            if isinstance(logger, WandbLogger) and logger.experiment.settings.mode == "offline":
                run = Path(logger.experiment.dir).parent
                reason = "no API key, logging" if self.without_key else "logging"
                print(f"W&B: {reason} offline to {run}; upload with: wandb sync {run}")

    def state_dict(self) -> dict[str, Any]:
        """The name and the id of the run, by which it is resumed."""
        return {"run": self.run}


def _description() -> str:
    """What ``cpg --help`` begins with."""
    families: dict[str, type[Any]] = {
        "data": SegmentationDataModule,
        "networks": SegmentationNetwork,
        "criteria": SegmentationCriterion,
    }
    names = {title: sorted(known.__name__ for known in subclasses(family)) for title, family in families.items()}
    known = " ".join(f"{title}: {', '.join(classes)}." for title, classes in names.items())
    return (
        "Trains and evaluates segmentation networks with boundary-aware losses. Known by their short names, and others by "
        f"their class path: {known} What is in a dataset, and wrong with it: cpg check-data --help. First run: cpg fit "
        "--config experiments/quickstart.yaml"
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
    parts = (config.model.network.init_args.get(part) for part in ("architecture", "encoder", "model_type"))
    network = "-".join([network, *(part for part in parts if part)])  # of a family, which one
    weight = config.model.criterion.init_args.get("cpg_weight")
    loss = criterion.removesuffix("Loss").lower() if weight is None else "ce+cpg" if weight else "ce"
    return f"{data.removesuffix('DataModule').lower()}-{network.lower()}-{loss}"


def _wandb_loggers(trainer: Namespace) -> list[Namespace]:
    """The arguments of each WandbLogger there is."""
    return [each.init_args for each in configured(trainer.get("logger")) if each.class_path.endswith(".WandbLogger")]


def _drop_pretrained(model: Namespace) -> None:
    """Fetch no weights to start from where a checkpoint has them all."""
    for argument, value in imported(model.network.class_path).unfetched().items():
        if argument in model.network.init_args:
            model.network.init_args[argument] = value
    model.weights = None


def _make(folder: Path) -> None:
    """Make the folder of the run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        raise ValueError(
            f"expected a folder that can be written to, got {folder} ({error}); "
            "choose where runs go with --trainer.default_root_dir"
        ) from error


def _open_run() -> Any:
    """The run that Weights & Biases has open in this process, or None."""
    wandb = sys.modules.get("wandb")  # its import takes half a second, and nothing is open before it
    return None if wandb is None else wandb.run


def _bad_input() -> tuple[type[Exception], ...]:
    """The errors whose message alone is shown."""
    wandb = sys.modules.get("wandb")  # only what is imported can have raised
    return (
        ValueError,
        OSError,
        ImportError,
        MisconfigurationException,
        *(() if wandb is None else (wandb.errors.Error,)),
    )


def _has_api_key() -> bool:
    """Whether Weights & Biases could log in; asks neither the user nor the network."""
    import wandb  # only here: it takes half a second

    settings = wandb.setup().settings
    if settings.api_key or settings.identity_token_file:
        return True
    try:
        return netrc(os.environ.get("NETRC")).authenticators(urlparse(settings.base_url).hostname or "") is not None
    except (OSError, NetrcParseError):
        return False
