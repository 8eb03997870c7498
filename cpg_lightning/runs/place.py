"""Where a run lies and what it is called, decided before anything is built."""

import argparse
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_warn

from cpg_lightning.data.paths import expanded
from cpg_lightning.runs.chosen_checkpoint import chosen_checkpoint, label_of
from cpg_lightning.runs.folder import CHECKPOINTS, CONFIG, RunFolder
from cpg_lightning.runs.given_values import digest
from cpg_lightning.runs.identity import RECIPE, data_of, inference_of
from cpg_lightning.runs.naming import data_name, readable_name

EVALUATIONS = ("validate", "test")


@dataclass
class Place:
    """Where a run lies and what it is called.

    Attributes:
        folder: Its folder.
        name: Its name, with the seed.
        id: Its id, the same in the folder, in checkpoints and in Weights & Biases.
        run: The training whose checkpoint is used, where it has a folder.
        checkpoint: The checkpoint that the run starts from.
        temporary: Whether the folder is removed at the end.
        end_may_change: Whether the training may be continued to another end than it had.
    """

    folder: RunFolder
    name: str
    id: str
    run: RunFolder | None = None
    checkpoint: str | None = None
    end_may_change: bool = False
    temporary: bool = False

    @property
    def evaluated(self) -> str | None:
        """The id of the training whose checkpoint is used by another run."""
        training = None if self.run is None else str(self.run.experiment()["id"])
        return None if training == self.id else training

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to train: the run is finished, and no checkpoint of it is to be continued."""
        return self.folder.is_finished and self.checkpoint is None


def place_of(subcommand: str | None, config: Namespace, plain: dict[str, Any], loggers: list[Namespace]) -> Place:
    """Decide where a run lies.

    Args:
        subcommand: ``fit``, ``validate``, ``test``, ``predict``, or None where nothing is run.
        config: The configuration of the subcommand.
        plain: The same as plain values.
        loggers: Arguments of each WandbLogger.

    Raises:
        ValueError: If the folder holds something else, or a restarted training does not say where it lies.
    """
    path = config.get("ckpt_path")
    path = str(expanded(path)) if path else None
    run = RunFolder.of_checkpoint(path) if path else None
    if subcommand == "fit" and config.trainer.get("fast_dev_run"):
        folder = RunFolder(tempfile.mkdtemp(prefix="cpg-"))
        return Place(folder, *_named(config, plain, loggers, None), checkpoint=path, temporary=True)
    if subcommand == "fit":
        return _of_training(config, plain, loggers, path, run)
    name, run_id = _named(config, plain, loggers, _agents_id())
    parent = RunFolder(Path(config.trainer.default_root_dir or "runs"))
    if subcommand is None:
        return Place(RunFolder(parent.path / f"{name}-{run_id}"), name, run_id)
    folder = RunFolder(parent.path / f"{subcommand}-{name}-{run_id}")
    if run is not None and path is not None and subcommand in EVALUATIONS and os.access(run.path, os.W_OK):
        split = config.data.get("init_args", {}).get("test_split") or "test" if subcommand == "test" else "val"
        folder = RunFolder(run.path / "evaluations" / f"{split}-{label_of(run, path)}-{_evaluated(run, plain)}")
    return Place(folder, f"{subcommand}-{name}", run_id, run, path)


def _evaluated(run: RunFolder, plain: dict[str, Any]) -> str:
    """Return a digest of the inference, and of the data if the run is evaluated on other data than its own."""
    data = run.experiment()["parts"].get("data", {})
    values = {name: value for name, value in data.get("values", {}).items() if name not in ("names", "images")}
    own, given = [data.get("name"), values], [data_name(plain), data_of(plain)]
    return digest(inference_of(plain)) + ("" if given == own else f"-{digest(given)}")


def _of_training(
    config: Namespace, plain: dict[str, Any], loggers: list[Namespace], path: str | None, run: RunFolder | None
) -> Place:
    """The place of a training: the run that is continued, or a new one."""
    if isinstance(config.seed_everything, bool):
        raise ValueError(
            "expected seed_everything to be a number, which names the run among its repetitions, got false"
        )
    output = None if config.output is None else RunFolder(expanded(config.output))
    if output is not None and run is not None and output.path.resolve() != run.path.resolve():
        raise ValueError(
            f"expected a checkpoint of the run in {output.path}, got {path}, whose run in {run.path} is continued there; to start "
            "another run from its weights, use --model.weights"
        )
    folder = run or output
    scheduled = _agents_id() or (_jobs_id(config, plain) if folder is None else None)
    name, run_id = _named(config, plain, loggers, scheduled)
    if folder is None:
        if scheduled is None and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
            raise ValueError(
                "expected --output FOLDER where torchrun restarts a training: it is continued there; got none"
            )
        folder = RunFolder(Path(config.trainer.default_root_dir or "runs") / f"{name}-{run_id}")
        if scheduled is None and folder.is_run:
            raise ValueError(
                f"expected a folder without another run, got {folder.path}; to continue that run, use --output"
            )
    if folder.is_run:
        record = folder.experiment()
        newest = None if folder.is_finished else folder.newest_checkpoint()
        if newest is None and path is None and not folder.is_finished:
            rank_zero_warn(f"the run in {folder.path} has no checkpoint in {CHECKPOINTS} yet, and starts again")
        checkpoint = path or (None if newest is None else str(newest))
        return Place(
            folder, f"{record['name']}-seed{record['seed']}", record["id"], folder, checkpoint, path is not None
        )
    if not folder.is_free():
        raise ValueError(
            f"expected a new or an empty folder, or that of a run, got {folder.path}, which holds something else"
        )
    return Place(folder, name, run_id, None, path)


def _agents_id() -> str | None:
    """Return the id of the run that ``wandb agent`` has started; None without an agent."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def _jobs_id(config: Namespace, plain: dict[str, Any]) -> str | None:
    """Return the id of a training in a SLURM job, the same after a restart of the job; None outside of a job."""
    if not SLURMEnvironment.detect():
        return None
    job = [os.environ.get(name) for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")]
    job = job if all(job) else [os.environ.get("SLURM_JOB_ID")]
    recipe = {name: plain["trainer"].get(name) for name in (*RECIPE, "callbacks")}
    return digest([job, plain["model"], plain["data"], recipe, config.seed_everything])[:8]


def _named(
    config: Namespace, plain: dict[str, Any], loggers: list[Namespace], scheduled: str | None
) -> tuple[str, str]:
    """The name and the id of a new run: the user's, those of a scheduler, or new ones."""
    name = next((logger.name for logger in loggers if logger.name), None) or _name(config, plain)
    run_id = next((logger.id for logger in loggers if logger.id), None) or scheduled or secrets.token_hex(4)
    return name.replace("/", "-"), run_id


def _name(config: Namespace, plain: dict[str, Any]) -> str:
    return f"{readable_name(plain)}-seed{config.seed_everything}"


def arguments_of_run(arguments: Sequence[str]) -> list[str]:
    """Arguments with what ``--run FOLDER`` stands for: the configuration of a run and its best checkpoint.

    Args:
        arguments: Arguments of the command; ``--ckpt_path last`` takes the run's last checkpoint instead.

    Raises:
        FileNotFoundError: If the folder is no run's, or has no such checkpoint.
    """
    if list(arguments[:1]) not in (["validate"], ["test"], ["predict"]):
        return list(arguments)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run")
    parser.add_argument("--ckpt_path")
    options, rest = parser.parse_known_args(list(arguments[1:]))
    if options.run is None:
        return list(arguments)
    folder = RunFolder(expanded(options.run))
    if not (folder.path / CONFIG).is_file():
        raise FileNotFoundError(f"expected the folder of a run, with its {CONFIG}, got {folder.path}")
    path = options.ckpt_path
    path = chosen_checkpoint(folder, path or "best") if path in (None, "best", "last") else path
    output = ["--output", str(folder.path / "predictions")]
    output = output if arguments[0] == "predict" and not any(each.startswith("--output") for each in rest) else []
    return [arguments[0], "--config", str(folder.path / CONFIG), *rest, *output, "--ckpt_path", str(path)]


def arguments_to_continue(arguments: Sequence[str], folder: Path) -> list[str]:
    """The arguments that continue a training in its folder.

    Args:
        arguments: Those that it was started with.
        folder: Its folder.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output")
    parser.add_argument("--ckpt_path")
    _, rest = parser.parse_known_args(list(arguments))
    return [*rest, "--output", str(folder)]
