"""The ``cpg`` command: LightningCLI with links from the data to the model, and a recorded folder for each run."""

import shlex
import shutil
import sys
from typing import Any

import lightning as L
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

import cpg_lightning

# The command line knows imported classes by their short names; some imports serve only this.
from cpg_lightning.callbacks import (
    BestCheckpoint,  # noqa: F401
    EvaluationReport,  # noqa: F401
    StopOnSignal,
)
from cpg_lightning.callbacks.run_record import RunRecord, repeat_last_validation, versions
from cpg_lightning.callbacks.stopping import SIGNALS
from cpg_lightning.check_data import check_data
from cpg_lightning.command import WITHOUT_LIGHTNING, without_lightning
from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.errors import original_error
from cpg_lightning.first_lines import print_first_lines
from cpg_lightning.given_optimizer import check_inherited_lr
from cpg_lightning.help import describe
from cpg_lightning.initial_weights import drop_initial_weights, expand_paths
from cpg_lightning.learning_rate import check_lr_above_zero
from cpg_lightning.messages import quieten
from cpg_lightning.module import SegmentationModule
from cpg_lightning.parsing import YAML, Parser, check_callables, check_trainer, plain_values, try_integers_first
from cpg_lightning.prediction_output import check_output, leave_out_predicted
from cpg_lightning.resuming import groups_of
from cpg_lightning.run_callbacks import callbacks_of_runs, keep_checkpoints_in, keep_logs_in
from cpg_lightning.run_errors import explain_errors
from cpg_lightning.runs.checkpoints import check_classes, check_weights, read_checkpoint
from cpg_lightning.runs.given_values import arguments_of
from cpg_lightning.runs.identity import check_same, experiment_of
from cpg_lightning.runs.place import Place, arguments_of_run, arguments_to_continue, place_of
from cpg_lightning.runs.wandb_settings import open_run, set_group, set_up_wandb, wandb_loggers


def main(args: ArgsType = None, run: bool = True) -> "SegmentationCLI":
    """Run the command line from Python.

    ``check-data``, ``init``, ``study`` and ``report`` need no Trainer; they end with ``sys.exit``.

    Args:
        args: The arguments, ``sys.argv`` by default.
        run: Whether to run a subcommand. If False, the arguments contain no subcommand, and the objects are built only.

    Returns:
        The command line, with ``model``, ``datamodule`` and ``trainer``.
    """
    arguments = sys.argv[1:] if args is None else args
    if isinstance(arguments, list) and arguments[:1] == ["check-data"]:
        sys.exit(check_data(arguments[1:]))
    if isinstance(arguments, list) and tuple(arguments[:1]) in WITHOUT_LIGHTNING:
        sys.exit(without_lightning(arguments[0], arguments[1:]))
    opened_before = open_run()
    quieten()
    only = arguments[0] if run and isinstance(arguments, list) and arguments else None
    kind = _with_one_subcommand(only) if only in SegmentationCLI.subcommands() else SegmentationCLI
    try:
        return kind(
            SegmentationModule,
            SegmentationDataModule,
            subclass_mode_data=True,
            save_config_callback=RunRecord,
            # In Python, the caller handles signals.
            trainer_defaults={"callbacks": [StopOnSignal()] if args is None else []},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={
                "parser_mode": YAML,
                "prog": "cpg",
                "description": describe(),
                "version": cpg_lightning.__version__,
                # The default usage lists every option and would hide an error's message.
                **{
                    name: {"usage": f"cpg {name} --config FILE [options]", "parser_mode": YAML}
                    for name in kind.subcommands()
                },
            },
            args=arguments_of_run(arguments) if isinstance(arguments, list) else args,
            run=run,
        )
    except ValueError as error:
        first = original_error(error)
        if first is error:
            raise
        raise first from None
    finally:
        # Otherwise, the next run of this process would be logged into this one. A run that the caller opened stays open.
        opened = open_run()
        if run and opened is not None and opened is not opened_before:
            opened.finish(exit_code=int(sys.exc_info()[0] is not None))


class SegmentationCLI(LightningCLI):
    """LightningCLI that links the classes of the data to the model, and gives each run a name and a folder."""

    checkpoint: dict[str, Any] | None
    given: dict[str, Any]
    place: Place

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the classes and the image size of the data to the model, and add the options for folders."""
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
        parser.link_arguments("data.image_size", "model.image_size", apply_on="instantiate")
        parser.add_argument(
            "--output",
            type=str | None,
            help="fit: folder of the run; a run that exists in it is continued. predict: folder of the predictions",
        )
        parser.add_argument(
            "--run",
            type=str | None,
            help="validate, test, predict: folder of a training; its configuration and its best checkpoint are used",
        )
        parser.add_argument(
            "--overwrite",
            type=bool,
            default=False,
            help="predict: whether to predict all images again and overwrite files",
        )
        parser.link_arguments("data.num_classes", "model.network.init_args.num_classes", apply_on="instantiate")
        try_integers_first(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line."""
        super().parse_arguments(parser, args)
        if isinstance(args, list):
            check_inherited_lr(args)

    def before_instantiate_classes(self) -> None:
        """Set the name, the folder and the Weights & Biases settings of the run."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        expand_paths(config.model)
        record = config.clone()
        for argument in set(vars(record)) - {"seed_everything", "trainer", "model", "data"}:
            del record[argument]  # options of the subcommand, such as ckpt_path
        for logger in wandb_loggers(record.trainer):
            logger.id = None  # another run of this configuration must not be logged into this one
        check_callables(config)
        check_trainer(config.trainer)
        if config.trainer.enable_model_summary is None:
            config.trainer.enable_model_summary = False  # the first lines print the number of parameters
        if self.subcommand in ("validate", "test"):
            config.verbose = False  # the report prints the scores
        if self.subcommand == "predict":
            config.trainer.logger = False  # predictions are files
            if config.return_predictions is None:
                config.return_predictions = False  # PredictionWriter writes them
        check_output(self.subcommand, config)
        loggers = wandb_loggers(config.trainer)
        self.given = plain_values(self._parser(self.subcommand), record)
        self.place = place = place_of(self.subcommand, config, self.given, loggers)
        if self.subcommand:
            config.ckpt_path = place.checkpoint
        self.checkpoint = (
            None if place.checkpoint is None else read_checkpoint(place.checkpoint, training=self.subcommand == "fit")
        )
        if self.checkpoint or place.is_done:
            drop_initial_weights(config.model, self.checkpoint)
        folder = place.folder.path
        config.trainer.default_root_dir = str(folder)
        ours = callbacks_of_runs(config.trainer, self.subcommand)
        self.trainer_defaults["callbacks"] = ours + self.trainer_defaults["callbacks"]  # StopOnSignal sees a step last
        keep_logs_in(folder, config.trainer)
        obstacle = set_up_wandb(loggers, place, self.subcommand)
        training = place.evaluated if loggers else None
        self.save_config_kwargs = {"record": record, "obstacle": obstacle, "training": training}

    def instantiate_classes(self) -> None:
        """Build all objects, and store a description of the network for checkpoints."""
        # LightningCLI takes the hyperparameters from config_dump. It would validate the configuration again to fill it.
        plain = plain_values(self.parser, self.config, complete=True)
        self.config_dump = plain[self.subcommand] if self.subcommand else plain
        super().instantiate_classes()
        network = self.given["model"]["network"]
        arguments = self.model.network.checkpoint_arguments(arguments_of(network))
        self.model.hparams["network"] = {"class_path": network["class_path"], "init_args": arguments}

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        """Build the Trainer.

        Raises:
            ValueError: If the Trainer refuses an option, or two callbacks would save their states under one name.
        """
        try:
            return super().instantiate_trainer(**options)
        except TypeError as error:
            raise ValueError(f"expected options that the Trainer takes: {error}") from error
        except RuntimeError as error:
            if "stateful callback" not in str(error):
                raise
            raise ValueError(
                "expected callbacks of one class to monitor different scores, got two with the same; base.yaml has a "
                "BestCheckpoint for val/mIoU and one for the latest epoch: to change their options, list all callbacks of the "
                "Trainer in a file"
            ) from error

    def after_instantiate_classes(self) -> None:
        """Check the checkpoint and the data before anything is written, then create the run's folder."""
        keep_checkpoints_in(self.place.folder.path, self.trainer)
        if not self.subcommand:
            return
        self.datamodule.trainer = self.trainer  # the Trainer sets it too, but later
        self.model.check_run(self.trainer, self.datamodule, self.subcommand)
        if self.checkpoint:
            path = self._get(self.config, "ckpt_path")
            check_classes(self.model.classes, self.checkpoint, path)
            check_weights(self.model, self.checkpoint["state_dict"], path)
        elif self.subcommand != "fit":
            rank_zero_warn(f"without --ckpt_path, {self.subcommand} uses the initial weights of the network")
        if self.subcommand == "predict" and self.config.predict.output is not None:
            config = plain_values(self.parser, self.config)["predict"]
            leave_out_predicted(config, self.trainer, self.model, self.datamodule)
        self.datamodule.setup(self.subcommand)
        if self.subcommand == "fit":
            self._begin()
        self.checkpoint = None  # the Trainer reads the file itself
        rank_zero_only(self.place.folder.make)()

    def _begin(self) -> None:
        """Compare the experiment with the one in the folder, and record it there before the first step."""
        folder, seed = self.place.folder, self.given["seed_everything"]
        earlier = folder.experiment() if folder.is_run else None
        experiment = experiment_of(self.given, self.model, self.datamodule, earlier)
        to_another_end = earlier is not None and check_same(experiment, seed, folder, self.place.end_may_change)
        if self.checkpoint:
            self.model.check_continuation(self.checkpoint, self.trainer)
            if to_another_end and isinstance(self.model.lr_schedule, str):
                check_lr_above_zero([group["lr"] for group in groups_of(self.checkpoint)])
        record = {**experiment.plain(), "id": self.place.id, "seed": seed, "versions": versions()}
        if self.trainer.is_global_zero and any(isinstance(each, WandbLogger) for each in self.trainer.loggers):
            set_group(record)
        if not self.place.is_done:
            print_first_lines(self.given, self.trainer, self.model, self.datamodule, folder.path)
        if self.trainer.is_global_zero and not self.place.is_done and not self.place.temporary:
            folder.make()
            folder.begin(record)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the subcommand.

        Raises:
            ValueError: See :func:`~cpg_lightning.run_errors.explain_errors`.
            MemoryError: As for ``ValueError``.
            ChildProcessError: As for ``ValueError``.
        """
        if subcommand == "fit" and self.place.is_done:
            rank_zero_info(f"the run in {self.place.folder.path} is finished; its scores are in its summary.json")
            return
        done = self.datamodule.predicted
        if done is not None and done.left_out:
            rank_zero_info(
                f"{done.left_out} images are already predicted in {done.folder} and skipped; --overwrite true predicts them "
                "again"
            )
            if not done.identities:
                return
        try:
            with explain_errors(self.trainer, self.model, self.datamodule, self._get(self.config, "ckpt_path")):
                super()._run_subcommand(subcommand)
                repeat_last_validation(self.trainer, self.model)
        except SIGTERMException as end:
            # Raised by StopOnSignal in the first process. SLURM continues a requeued job by itself.
            if end.code in [128 + number for number in SIGNALS] and not self.place.temporary:
                again = shlex.join(["cpg", *arguments_to_continue(sys.argv[1:], self.place.folder.path)])
                rank_zero_info(f"continue with: {again}")
            raise
        finally:
            if self.place.temporary:
                rank_zero_only(shutil.rmtree)(self.place.folder.path, ignore_errors=True)

    def _parse_ckpt_path(self) -> None:
        """Keep the configuration unchanged.

        LightningCLI would overwrite the configuration, including the command line, with the hyperparameters in the
        checkpoint. Here the configuration of a training is in the folder of its run.
        """


def _with_one_subcommand(name: str) -> type[SegmentationCLI]:
    """Return the CLI with one subcommand: building the parser of each takes a tenth of a second."""

    class OneSubcommand(SegmentationCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {name: SegmentationCLI.subcommands()[name]}

    return OneSubcommand
