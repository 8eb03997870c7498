"""Reading and checking of checkpoints as untrusted data, which cannot import, open or run anything."""

import re
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any, cast

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
NAME = re.compile(r"[^/\\:\x00-\x1f]+")  # a name of a file or folder, not a path
ADDRESS = re.compile("://|::")  # part of a path that Lightning's file library (fsspec) treats as a URL


def read_checkpoint(path: str | Path, training: bool = False) -> dict[str, Any]:
    """Read a checkpoint of ``cpg fit`` or of a Trainer to the CPU.

    Args:
        path: The checkpoint file.
        training: Whether the checkpoint must contain the state of the training too, to continue it.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file cannot be read, or an entry is missing, has another type or is a path outside its folder.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"expected a checkpoint file, got none: {path}; the checkpoints of a run are in runs/<name of the run>/checkpoints"
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
        # With an empty list of optimizers, Lightning would silently restore none.
        if not isinstance(checkpoint.get(name), kind) or checkpoint[name] == []
    ]
    if wrong:
        raise ValueError(
            f"expected a checkpoint with {', '.join(needed)}, got one without {', '.join(wrong)}: {path}; a file that contains "
            "only weights can start another training with --model.weights, but cannot continue one"
        )
    if not all(isinstance(weight, Tensor) for weight in checkpoint["state_dict"].values()):
        raise ValueError(f"expected tensors in the checkpoint's state_dict, got other values: {path}")
    check_paths(checkpoint, path)  # even `validate` restores the callbacks
    return checkpoint


def class_names(checkpoint: Any) -> list[str] | None:
    """Return the class names in a checkpoint; None if it has none."""
    parameters = checkpoint.get("hyper_parameters") if isinstance(checkpoint, Mapping) else None
    classes = parameters.get("classes") if isinstance(parameters, Mapping) else None
    names = classes.get("names") if isinstance(classes, Mapping) else None
    return [str(name) for name in names] if isinstance(names, list | tuple) else None


def check_classes(classes: ClassInfo, checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Check that a checkpoint was trained on the same classes in the same order.

    Args:
        classes: The classes of the data.
        checkpoint: The content of a checkpoint file.
        path: The file, for messages.

    Raises:
        ValueError: If the classes differ. The message names the differences.
    """
    names = class_names(checkpoint)
    if names is not None:
        classes.check_same(names, f"the checkpoint {path}")


def warn_of_other_classes(path: str | Path, classes: ClassInfo) -> None:
    """Warn if initial weights were trained on the same number of classes with other names or in another order.

    Args:
        path: The file of weights.
        classes: The classes of the data.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file cannot be read.
    """
    names = class_names(read_file(path))
    if names is not None and len(names) == classes.num_classes and tuple(names) != classes.names:
        rank_zero_warn(
            f"the weights in {path} were trained on other classes, and their last layers are used for the classes of the data: "
            f"{classes.difference(names)}"
        )


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that weights belong to the module's network.

    Args:
        module: A :class:`~cpg_lightning.module.SegmentationModule`.
        weights: The ``state_dict`` of a checkpoint.
        path: The checkpoint, for messages.

    Raises:
        ValueError: If a weight is missing, unexpected or not finite, or has another shape.
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
    """Return the arguments of a module for evaluation: ``network``, ``classes`` and ``image_size``.

    Args:
        checkpoint: The result of :func:`read_checkpoint`.
        path: The file, for messages.
        network: The network; required if the checkpoint does not describe it.
        allow: Class paths outside this package that may be imported, e.g. ``my_package.MyNetwork``.

    Raises:
        ValueError: If an entry is missing, or a class is not allowed or does not accept its arguments.
    """
    hyperparameters = checkpoint.get("hyper_parameters")
    if not isinstance(hyperparameters, dict) or "classes" not in hyperparameters:
        raise ValueError(
            f"expected a checkpoint of this package, which has classes in its hyper_parameters, got another: {path}"
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
    """Build the network that a checkpoint describes, without downloading or reading weights.

    Args:
        description: ``{"class_path": ..., "init_args": {...}}`` of plain values.
        num_classes: Number of classes C.
        allow: See :func:`module_arguments`.

    Raises:
        ValueError: If the description is not such a dictionary, or contains a path or a class that is not allowed.
    """
    network = _build(description, allow, num_classes)
    if not isinstance(network, SegmentationNetwork):
        raise ValueError(f"expected a SegmentationNetwork in the checkpoint, got {type(network).__name__}")
    return network


def _build(description: Any, allow: Collection[str], num_classes: int) -> Any:
    class_path = description.get("class_path") if isinstance(description, dict) else None
    given = [description.get(name) or {} for name in ("init_args", "dict_kwargs")] if class_path else []
    if not isinstance(class_path, str) or not all(isinstance(each, dict) for each in given):
        raise ValueError("expected class_path and init_args of a network in the checkpoint, got other values")
    kind = _class(class_path, allow)
    arguments = {name: _argument(value, allow, num_classes) for each in given for name, value in each.items()}
    if isinstance(kind, type) and issubclass(kind, SegmentationNetwork):
        paths = [name for name in kind.paths if arguments.get(name) is not None]
        if paths:
            raise ValueError(f"expected no {', '.join(paths)} in the checkpoint: a checkpoint must not choose a path")
        arguments |= {**kind.without_pretrained(), "num_classes": num_classes}
    return kind(**arguments)


def _class(class_path: str, allow: Collection[str]) -> Callable[..., Any]:
    """Import a network of this package, or a class or a function in ``allow``."""
    module, _, name = class_path.rpartition(".")
    if class_path in allow:
        kind = getattr(import_module(module), name)
    else:
        kind = (
            getattr(networks, name) if name in networks.__all__ and f"{module}.".startswith("cpg_lightning.") else None
        )
    if not callable(kind) or isabstract(kind):
        raise ValueError(
            f"expected a network of this package in the checkpoint, got {class_path}; a checkpoint must not choose code to "
            f"import. If you trust this class, pass network= or allow=[{class_path!r}]"
        )
    return cast(Callable[..., Any], kind)


def _argument(value: Any, allow: Collection[str], num_classes: int) -> Any:
    """Check an argument of a constructor: plain values, names that are not paths, and objects of allowed classes."""
    if isinstance(value, dict):
        if "class_path" in value:
            return _build(value, allow, num_classes)
        return {name: _argument(each, allow, num_classes) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_argument(each, allow, num_classes) for each in value]
    if isinstance(value, str) and not _is_name(value):
        raise ValueError(
            f"expected names in the network's arguments in the checkpoint, got {value!r}, which may be a path or a URL; "
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
    """Check that the state of each ModelCheckpoint names only files in its folder, because it deletes old files.

    Args:
        checkpoint: The content of a checkpoint file.
        path: The file, for messages.

    Raises:
        ValueError: If a file is outside the folder.
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
    """Whether a path is below a folder. Paths are compared as text, as in Lightning, and URLs are never below a folder."""
    return not ADDRESS.search(file) and ".." not in Path(file).parts and folder in Path(file).parents
