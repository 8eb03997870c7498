"""Settings of runs in Weights & Biases: name, id, group, folder, and offline mode without an API key or a connection."""

import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from cpg_lightning.parsing import configured_classes
from cpg_lightning.runs.place import Place

SECONDS = 5.0  # time limit for an answer of the server

_set: dict[str, str] = {}  # environment variables set by earlier runs of this process


def wandb_loggers(trainer: Namespace) -> list[Namespace]:
    """The arguments of each WandbLogger of a configuration."""
    return [
        each.init_args for each in configured_classes(trainer.get("logger")) if each.class_path.endswith(".WandbLogger")
    ]


def set_up_wandb(loggers: list[Namespace], place: Place, job_type: str | None) -> str | None:
    """Set the name and the id of a run in Weights & Biases, and offline mode if it cannot be online.

    Returns:
        Why the run cannot be online; None if it can.
    """
    folder = place.folder.path.absolute()
    _set_variable("WANDB_DATA_DIR", folder)  # folder of offline tables before their upload
    _set_variable("WANDB_QUIET", "true")  # avoids a second table of the scores at the end
    first = getattr(rank_zero_only, "rank", 0) == 0  # the only process that logs
    online = [logger for logger in loggers if not logger.mode and not logger.offline]
    obstacle = _obstacle() if online and first and "WANDB_MODE" not in os.environ else None
    for logger in loggers:
        logger.name, logger.id = place.name, place.id
        logger.job_type = logger.job_type or job_type
        if not logger.mode and (obstacle or logger.offline):
            logger.mode = "offline"  # the environment variable that Lightning sets comes too late
    if place.run is not None and loggers and first:
        set_group(place.run.experiment())
    return obstacle


def set_group(experiment: Mapping[str, Any]) -> None:
    """Set the group of the next run to its experiment, unless the user has set a group.

    Args:
        experiment: The content of the run's ``experiment.json``.
    """
    import wandb  # only here: the import takes half a second

    # An environment variable would come too late: Weights & Biases has read it during the check for the API key.
    if "WANDB_RUN_GROUP" not in os.environ:
        wandb.setup(settings=wandb.Settings(run_group=f"{experiment['name']}-{experiment['key']}"))


def _obstacle() -> str | None:
    """Return why a run cannot be logged online; None if it can."""
    if not has_api_key():
        return "no API key"
    import wandb  # only here: the import takes half a second

    server = str(wandb.setup().settings.base_url)
    return None if answers(server) else f"no connection to {server}"


def answers(server: str) -> bool:
    """Whether a server answers. Weights & Biases would wait for 90 seconds and then end the run.

    Args:
        server: Its address.
    """
    try:
        with urlopen(server, timeout=SECONDS):
            return True
    except HTTPError:
        return True
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # Weights & Biases may know other certificates
    except OSError:
        return False


def has_api_key() -> bool:
    """Whether Weights & Biases could log in, without asking the user or the network.

    Raises:
        ValueError: If there is a malformed key.
    """
    import wandb  # only here: the import takes half a second

    try:
        wandb.setup()  # reads the settings of the output
        wandb.termsetup(wandb.Settings(silent=True), None)  # avoids two lines about the key
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.errors.Error as error:
        raise ValueError(
            f"expected a valid API key of Weights & Biases, or none, got another: {error}; correct it in WANDB_API_KEY or with "
            "wandb login --relogin, or log offline with WANDB_MODE=offline"
        ) from None
    finally:
        wandb.termsetup(wandb.setup().settings, None)


def open_run() -> Any:
    """The open run of Weights & Biases in this process, or None."""
    wandb = sys.modules.get("wandb")  # no run is open before the import
    return None if wandb is None else wandb.run


def _set_variable(name: str, value: str | Path) -> None:
    """Set an environment variable, unless the user has set it. Values of earlier runs of this process are replaced."""
    if os.environ.get(name) in (None, _set.get(name)):
        _set[name] = os.environ[name] = str(value)
