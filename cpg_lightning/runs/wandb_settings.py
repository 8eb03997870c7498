"""How runs appear in Weights & Biases: their group, where they are staged, and whether there is a key."""

import os
import sys
from pathlib import Path
from typing import Any


def has_api_key() -> bool:
    """Whether Weights & Biases could log in; asks neither the user nor the network."""
    import wandb  # only here: it takes half a second

    return bool(wandb.login(prompt=False, verify=False))


def open_run() -> Any:
    """The run that Weights & Biases has open in this process, or None."""
    wandb = sys.modules.get("wandb")  # nothing is open before its import
    return None if wandb is None else wandb.run


class Environment:
    """Environment variables that Weights & Biases reads when a run starts, unless the user has set them."""

    def __init__(self) -> None:
        self.ours: dict[str, str] = {}

    def set(self, name: str, value: str | Path) -> None:
        """Set a variable; the value of an earlier run of this process is replaced, one of the user's is kept."""
        if os.environ.get(name) in (None, self.ours.get(name)):
            self.ours[name] = os.environ[name] = str(value)
