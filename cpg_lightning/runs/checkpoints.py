"""Checkpoints as data: what they hold is checked, and nothing in them is imported, opened or run."""

import re
from collections.abc import Collection, Mapping
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from cpg_lightning import networks
from cpg_lightning.data.class_info import ClassInfo
from cpg_lightning.networks import SegmentationNetwork
from cpg_lightning.networks.weights import check_finite, read_file

TRAINING_STATE: dict[str, type | tuple[type, ...]] = {
    "callbacks": dict,
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "lr_schedulers": list,
    "optimizer_states": list,
}
NAME = re.compile(r"[^/\\:\x00-\x1f]+")  # of a file or folder, not a path
ADDRESS = re.compile("://|::")  # of a file on another system, or what the library behind Lightning takes for one


def read_checkpoint(path: str | Path, training: bool = False) -> dict[str, Any]:
    """Read a checkpoint of ``cpg fit`` or of a Trainer, on the CPU.

    Args:
        path: The checkpoint file.
        training: Whether it is to be trained on, which needs the state of training too.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, lacks an entry, or holds an entry of another type or a path outside of its folder.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"expected a checkpoint file, got none: {path}; those of a run are in runs/<name of the run>/checkpoints"
        )
    checkpoint = read_file(path)
    needed: dict[str, Any] = {"pytorch-lightning_version": str, "state_dict": dict} | (
        TRAINING_STATE if training else {}
    )
    if not isinstance(checkpoint, dict):
        raise ValueError(f"expected a checkpoint, got a {type(checkpoint).__name__}: {path}")
    wrong = [
        name
        for name, kind in needed.items()
        # Lightning restores as many optimizers as it finds: with an empty list, none, without a word.
        if not isinstance(checkpoint.get(name), kind) or checkpoint[name] == []
    ]
    if wrong:
        raise ValueError(
            f"expected a checkpoint with {', '.join(needed)}, got one without {', '.join(wrong)}: {path}; a file that holds "
            "weights alone can start another training by --model.weights, but not continue one"
        )
    if not all(isinstance(weight, Tensor) for weight in checkpoint["state_dict"].values()):
        raise ValueError(f"expected tensors in the checkpoint's state_dict, got other values: {path}")
    check_paths(checkpoint, path)  # `validate` restores the callbacks too
    return checkpoint


def class_names(checkpoint: Any) -> list[str] | None:
    """The names of the classes that a checkpoint was trained on; None where it does not have them."""
    parameters = checkpoint.get("hyper_parameters") if isinstance(checkpoint, Mapping) else None
    classes = parameters.get("classes") if isinstance(parameters, Mapping) else None
    names = classes.get("names") if isinstance(classes, Mapping) else None
    return [str(name) for name in names] if isinstance(names, list | tuple) else None


def check_classes(classes: ClassInfo, checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a checkpoint that was trained on other classes, or on the same in another order.

    Args:
        classes: The classes of the data.
        checkpoint: What a checkpoint file holds.
        path: The file, for messages.

    Raises:
        ValueError: If they differ; it names the classes that do.
    """
    names = class_names(checkpoint)
    if names is not None:
        classes.check_same(names, f"the checkpoint {path}")


def warn_of_other_classes(path: str | Path, classes: ClassInfo) -> None:
    """Warn of weights to start from that were trained on as many classes of other names, or in another order.

    Args:
        path: The file of weights.
        classes: The classes of the data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read.
    """
    names = class_names(read_file(path))
    if names is not None and len(names) == classes.num_classes and tuple(names) != classes.names:
        rank_zero_warn(
            f"the weights in {path} were trained on other classes than the data's, and start with their last layers: "
            f"{classes.difference(names)}"
        )


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse the weights of another network.

    Args:
        module: A :class:`~cpg_lightning.module.SegmentationModule`.
        weights: A checkpoint's ``state_dict``.
        path: The checkpoint, for messages.

    Raises:
        ValueError: If a weight is missing, unexpected or of another shape.
    """
    expected = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    got = {name: tuple(weight.shape) for name, weight in weights.items()}
    wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
    if wrong:
        raise ValueError(
            f"expected a checkpoint of {type(module.network).__name__}, got another: "
            f"{len(wrong)} weights differ, e.g. {wrong[0]} is {got.get(wrong[0], 'missing')} instead of "
            f"{expected.get(wrong[0], 'nothing')}: {path}"
        )
    check_finite(module, weights, path)


def module_arguments(
    checkpoint: Mapping[str, Any], path: str | Path, network: SegmentationNetwork | None, allow: Collection[str]
) -> dict[str, Any]:
    """The arguments with which a module is built for evaluation: its network, its classes and the size that images are resized to.

    Args:
        checkpoint: From :func:`read_checkpoint`.
        path: Its file, for messages.
        network: The network, for a checkpoint that does not describe it.
        allow: Class paths outside of this package that may be imported, e.g. ``my_package.MyNetwork``.

    Raises:
        ValueError: If an entry is missing, or names a class that is not allowed or arguments that it does not take.
    """
    hyperparameters = checkpoint.get("hyper_parameters")
    if not isinstance(hyperparameters, dict) or "classes" not in hyperparameters:
        raise ValueError(
            f"expected a checkpoint of this package, with hyper_parameters and their classes, got another: {path}"
        )
    if network is None and "network" not in hyperparameters:
        raise ValueError(
            f"expected a network with the checkpoint of a module that was built in Python, got none: {path}; pass network="
        )
    try:
        classes = ClassInfo.from_plain(hyperparameters["classes"])
        network = network or build_network(hyperparameters["network"], classes.num_classes, allow)
    except (AttributeError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{error}: {path}") from error
    return {"network": network, "classes": classes, "image_size": hyperparameters.get("image_size")}


def build_network(description: Any, num_classes: int, allow: Collection[str] = ()) -> SegmentationNetwork:
    """Build the network that a checkpoint describes, without fetching or reading weights.

    Args:
        description: ``{"class_path": ..., "init_args": {...}}`` of plain values.
        num_classes: Number of classes C.
        allow: See :func:`module_arguments`.

    Raises:
        ValueError: If the description is no such dictionary, or holds a class that is not allowed or a path.
    """
    network = _build(description, allow, num_classes)
    if not isinstance(network, SegmentationNetwork):
        raise ValueError(f"expected a SegmentationNetwork in the checkpoint, got {type(network).__name__}")
    return network


def _build(description: Any, allow: Collection[str], num_classes: int) -> Any:
    class_path = description.get("class_path") if isinstance(description, dict) else None
    arguments = description.get("init_args", {}) if isinstance(description, dict) else None
    if not isinstance(class_path, str) or not isinstance(arguments, dict):
        raise ValueError("expected a network's class_path and init_args in the checkpoint, got others")
    kind = _class(class_path, allow)
    arguments = {name: _argument(value, allow, num_classes) for name, value in arguments.items()}
    if issubclass(kind, SegmentationNetwork):
        paths = [name for name in kind.paths if arguments.get(name) is not None]
        if paths:
            raise ValueError(f"expected no {', '.join(paths)} in the checkpoint, which is not trusted to choose a path")
        arguments |= {**kind.without_pretrained(), "num_classes": num_classes}
    return kind(**arguments)


def _class(class_path: str, allow: Collection[str]) -> type[Any]:
    """The class of a path: one of this package's networks, or one that is allowed by name."""
    module, _, name = class_path.rpartition(".")
    if class_path in allow:
        kind = getattr(import_module(module), name)
    else:
        kind = (
            getattr(networks, name) if name in networks.__all__ and f"{module}.".startswith("cpg_lightning.") else None
        )
    if not isinstance(kind, type) or isabstract(kind):
        raise ValueError(
            f"expected a network of this package in the checkpoint, got {class_path}; a checkpoint is not trusted to choose "
            f"what is imported: if you trust this class, pass network= or allow=[{class_path!r}]"
        )
    return kind


def _argument(value: Any, allow: Collection[str], num_classes: int) -> Any:
    """A constructor's argument: plain values, names that are no paths, and objects of allowed classes."""
    if isinstance(value, dict):
        if "class_path" in value:
            return _build(value, allow, num_classes)
        return {name: _argument(each, allow, num_classes) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_argument(each, allow, num_classes) for each in value]
    if isinstance(value, str) and not _is_name(value):
        raise ValueError(
            f"expected names in the network's arguments in the checkpoint, got {value!r}, which may be a path or an address; "
            "pass network= instead"
        )
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(
            f"expected plain values in the network's arguments in the checkpoint, got a {type(value).__name__}"
        )
    return value


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None and value not in (".", "..")


def check_paths(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Refuse the state of a ModelCheckpoint with files outside of its folder: it deletes those that it replaces.

    Args:
        checkpoint: What a checkpoint file holds.
        path: The file, for messages.

    Raises:
        ValueError: For such a state.
    """
    callbacks = checkpoint.get("callbacks")
    for state in callbacks.values() if isinstance(callbacks, dict) else ():
        if not isinstance(state, dict):
            continue
        best = state.get("best_k_models")
        files = [state.get(name) for name in ("best_model_path", "kth_best_model_path", "last_model_path")]
        files += list(best) if isinstance(best, dict) else []
        folder = Path(str(state.get("dirpath")))
        outside = [file for file in files if file and not _is_inside(str(file), folder)]
        if outside:
            raise ValueError(
                f"expected the checkpoints of a ModelCheckpoint in its folder {folder}, got {outside[0]}: {path}"
            )


def _is_inside(file: str, folder: Path) -> bool:
    """Whether a path leads below a folder, as it is written.

    Lightning compares paths as they are written too, and deletes whatever an address with a protocol names.
    """
    return not ADDRESS.search(file) and ".." not in Path(file).parts and folder in Path(file).parents
