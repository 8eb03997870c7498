"""Settings of runs in Weights & Biases: name, id, group, folder, and offline mode without an API key."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from cpg_lightning.parsing import configured
from cpg_lightning.runs.place import Place

_set: dict[str, str] = {}  # environment variables set by earlier runs of this process


def wandb_loggers(trainer: Namespace) -> list[Namespace]:
    """The arguments of each WandbLogger of a configuration."""
    return [each.init_args for each in configured(trainer.get("logger")) if each.class_path.endswith(".WandbLogger")]


def set_up_wandb(loggers: list[Namespace], place: Place, job_type: str | None) -> bool:
    """Set the name, the id and the folder of a run in Weights & Biases, and offline mode without an API key.

    Returns:
        Whether the API key is missing.
    """
    folder = place.folder.path.absolute()
    _set_variable("WANDB_DATA_DIR", folder)  # folder of offline tables before their upload
    _set_variable("WANDB_QUIET", "true")  # avoids a second table of the scores at the end
    first = getattr(rank_zero_only, "rank", 0) == 0  # the only process that logs
    without_key = bool(loggers) and first and "WANDB_MODE" not in os.environ and not has_api_key()
    for logger in loggers:
        logger.name, logger.id = place.name, place.id
        logger.save_dir = str(folder) if logger.save_dir == "." else logger.save_dir
        logger.job_type = logger.job_type or job_type
        if without_key and not logger.mode:
            logger.mode = "offline"
    if place.run is not None and loggers and first:
        set_group(place.run.experiment())
    return without_key


def set_group(experiment: Mapping[str, Any]) -> None:
    """Set the group of the next run to its experiment, unless the user has set a group.

    Args:
        experiment: The content of the run's ``experiment.json``.
    """
    import wandb  # only here: the import takes half a second

    # An environment variable would come too late: Weights & Biases has read it during the check for the API key.
    if "WANDB_RUN_GROUP" not in os.environ:
        wandb.setup(settings=wandb.Settings(run_group=f"{experiment['name']}-{experiment['key']}"))


def has_api_key() -> bool:
    """Whether Weights & Biases could log in, without asking the user or the network.

    Raises:
        ValueError: If there is a malformed key.
    """
    import wandb  # only here: the import takes half a second

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.errors.Error as error:
        raise ValueError(
            f"expected a valid API key of Weights & Biases, or none, got another: {error}; correct it in WANDB_API_KEY or with "
            "wandb login --relogin, or log offline with WANDB_MODE=offline"
        ) from None


def open_run() -> Any:
    """The open run of Weights & Biases in this process, or None."""
    wandb = sys.modules.get("wandb")  # no run is open before the import
    return None if wandb is None else wandb.run


def _set_variable(name: str, value: str | Path) -> None:
    """Set an environment variable, unless the user has set it. Values of earlier runs of this process are replaced."""
    if os.environ.get(name) in (None, _set.get(name)):
        _set[name] = os.environ[name] = str(value)
