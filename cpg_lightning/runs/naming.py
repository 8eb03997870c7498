"""Readable names of an experiment and of its parts."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cpg_lightning.runs.given_values import digest, without_defaults

# Arguments of a criterion that have a short form in names.
SHORT = {"kernel_size": "k", "ohem_threshold": "ohem", "label_smoothing": "smooth"}


def readable_name(config: Mapping[str, Any]) -> str:
    """Return the readable name of an experiment, e.g. ``camvid-lraspp-ce+cpg0.5``."""
    return f"{data_name(config)}-{network_name(config)}-{criterion_name(config)}"


def data_name(config: Mapping[str, Any]) -> str:
    """Return the name of the dataset, e.g. ``camvid``; for a FolderDataModule, the name of its folder."""
    kind = class_name(config["data"]["class_path"]).removesuffix("DataModule").lower()
    root = Path(str(config["data"].get("init_args", {}).get("root", ""))).name
    return _file_name(root) if kind == "folder" and _file_name(root) else kind


def network_name(config: Mapping[str, Any]) -> str:
    """Return the name of the network, e.g. ``lraspp``, with the architecture, encoder or folder, or the wrapped network."""
    network = config["model"]["network"]
    arguments = network.get("init_args", {})
    folder = Path(str(arguments.get("folder") or "")).name  # its configuration has the model type
    wrapped = arguments.get("network")
    parts = [arguments.get("architecture"), arguments.get("encoder"), folder or arguments.get("model_type")]
    parts.append(class_name(wrapped) if isinstance(wrapped, str) else wrapped)
    objects = [class_name(part["class_path"]) if _is_class(part) else part for part in (network, *parts)]
    return "-".join(_file_name(part) for part in objects if isinstance(part, str) and part).lower()


def criterion_name(config: Mapping[str, Any]) -> str:
    """Return the name of the criterion with arguments that are not defaults, e.g. ``ce+cpg0.5-k5``, ``0.25ce+0.75jaccard``."""
    return _file_name(_loss_name(config["model"]["criterion"]))


def _loss_name(criterion: Mapping[str, Any]) -> str:
    given = criterion.get("init_args", {})
    parts, weights, weight = (given.get(name) for name in ("losses", "weights", "cpg_weight"))
    if _are(parts, _is_class) and _are(weights, _is_number):
        pairs = zip(weights, parts, strict=False)  # the constructor compares their numbers
        return "+".join(f"{'' if weight == 1 else f'{weight:g}'}{_loss_name(part)}" for weight, part in pairs)
    arguments = dict(without_defaults(criterion, leave={"strip_logits"}).get("init_args", {}))
    if not _is_number(weight):
        name = class_name(criterion["class_path"]).removesuffix("Loss").lower()
    else:
        cpg = "cpg" if weight == 1 else f"cpg{weight:g}"
        terms = [*(["ce"] if arguments.pop("ce_weight", 1) else []), *([cpg] if weight else [])]
        name = "+".join(terms)
        arguments.pop("cpg_weight", None)
    said = [_argument(argument, value) for argument, value in sorted(arguments.items())]
    return "-".join([name, *(each for each in said if each)])


def _argument(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{'' if value else 'no_'}{name}"
    if isinstance(value, int | float):
        return f"{SHORT.get(name, name)}{value:g}"
    if isinstance(value, str):
        return value
    return "weighted" if name == "class_weights" else digest(value)[:4]


def _is_class(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _are(values: Any, kind: Callable[[Any], bool]) -> bool:
    """Whether a value is a list of values of one kind. A criterion of another package may have other arguments."""
    return isinstance(values, list) and all(map(kind, values))


def class_name(class_path: str) -> str:
    """Return the name of a class from its class path."""
    return class_path.rpartition(".")[2]


def _file_name(text: str) -> str:
    """Replace characters that have a meaning in paths or shells."""
    return re.sub(r"[^\w.+=-]+", "_", text).strip("_.")
