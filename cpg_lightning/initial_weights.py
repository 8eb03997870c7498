"""Initial weights in a configuration: their paths, and doing without them where a checkpoint replaces the weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from cpg_lightning.data.paths import expanded
from cpg_lightning.parsing import import_object


def expand_paths(model: Namespace) -> None:
    """Expand ``~`` and environment variables in the paths of the model."""
    _change_paths(model, expanded)


def make_paths_absolute(model: Namespace) -> None:
    """Make the paths of the model absolute, so that a saved configuration works in any folder."""
    _change_paths(model, lambda path: Path(path).absolute())


def drop_initial_weights(model: Namespace, checkpoint: Mapping[str, Any] | None) -> None:
    """Turn off pretrained weights: a checkpoint replaces them all, and a finished run needs none.

    Args:
        model: The configuration of the model.
        checkpoint: The checkpoint, if any. A network whose files no longer exist is built from its arguments in it.
    """
    kind = import_object(model.network.class_path)
    arguments = model.network.get("init_args", {})
    instead = kind.without_pretrained()
    if any(arguments.get(name) and not Path(arguments[name]).exists() for name in kind.paths):
        recorded = _recorded_arguments(checkpoint or {}, model.network.class_path)
        if not any(recorded.get(name) for name in kind.paths):  # a checkpoint must not choose a path
            instead |= recorded
    for argument, value in instead.items():
        if argument in arguments:
            arguments[argument] = value
    model.weights = None


def _recorded_arguments(checkpoint: Mapping[str, Any], class_path: str) -> dict[str, Any]:
    """Return the arguments of the network that a checkpoint describes, if it is of that class."""
    parameters = checkpoint.get("hyper_parameters")
    network = parameters.get("network") if isinstance(parameters, dict) else None
    if not isinstance(network, dict) or network.get("class_path") != class_path:
        return {}
    arguments = network.get("init_args")
    return dict(arguments) if isinstance(arguments, dict) else {}


def _change_paths(model: Namespace, change: Callable[[str], Path]) -> None:
    arguments, names = model.network.get("init_args", {}), import_object(model.network.class_path).paths
    for section, name in ((model, "weights"), *((arguments, name) for name in names)):
        if isinstance(section.get(name), str | Path):
            section[name] = str(change(section[name]))
