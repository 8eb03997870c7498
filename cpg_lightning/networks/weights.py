"""Reading weight files without running code in them, and loading weights into networks."""

import math
import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

Source = str | Path | Mapping[str, Tensor]
PICKLE = b"\x80"  # first byte of every pickle

# Usual keys of the state dict in files of training code; the first one found is used.
PLACES = (
    *("state_dict", "model_state_dict", "model", "net", "params", "ema"),
    *("model_state", "network", "weights", "module", "state_dict_ema", "model_ema", "params_ema"),
)
# Parts that torch.compile, activation checkpointing and FSDP insert into names.
WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
# Entries of this package's checkpoints that do not belong to the network.
BESIDE = ("mean", "std", "criterion")
# BatchNorm's counter, which older files lack.
COUNTER = "num_batches_tracked"


def non_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors with infinite or NaN values. Waits for the device once if all values are finite.

    Example:
        >>> non_finite({"weight": torch.ones(2), "bias": torch.tensor([0.0, torch.nan])})
        ['bias']
    """
    floating = {name: weight for name, weight in weights.items() if weight.is_floating_point() and weight.numel()}
    # The maximum over all tensors takes a few operators; a check of each tensor takes several operators per tensor.
    if not floating or get_total_norm(list(floating.values()), norm_type=math.inf).isfinite():
        return []
    return [name for name, weight in floating.items() if not weight.isfinite().all()]


def check_finite(network: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """Refuse infinite and NaN weights, as of a diverged training.

    Args:
        network: The network. Its buffers may be infinite by design, such as masks.
        weights: Weights for the network, by the network's names.
        source: Origin of the weights, for the message.

    Raises:
        ValueError: If there are such weights; the error names up to three.
    """
    wrong = non_finite(weights)
    if wrong:
        by_design = set(non_finite(dict(network.named_buffers())))
        wrong = [name for name in wrong if name not in by_design]
    if wrong:
        raise ValueError(
            f"expected finite weights, got {len(wrong)} tensors with infinite or undefined values (NaN), as after a training "
            f"that has diverged: {_listed(wrong)}: {source}"
        )


def read_file(path: str | Path) -> Any:
    """Read a file of ``torch.save`` or safetensors to the CPU. Only tensors and plain values are accepted.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file has other objects, which could run code when read, or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a file of weights, found none at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        archive = _is_plain_archive(path)
        with warnings.catch_warnings():  # a damaged file may name a pickle protocol that does not exist
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            # Files written before torch 1.6 are not zip archives and cannot be memory-mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        reason = str(error.__context__ or error).partition("\n")[0]  # torch adds unsafe advice
        if not _is_pickle(path) and not zipfile.is_zipfile(path):
            raise ValueError(f"expected a file of weights, could not read {path}: {reason}") from error
        raise ValueError(
            f"expected only tensors and plain values, got other objects in {path}, which could run code and are not "
            f"read ({reason}); if you trust the file, save its state_dict() again"
        ) from error
    except Exception as error:  # a damaged file can raise any error, even MemoryError for a wrong size
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise ValueError(f"expected a file of weights, could not read {path}: {reason}") from error


def read_weights(source: Source) -> dict[str, Tensor]:
    """The weights of a network by name. Parts that wrappers such as ``torch.compile`` insert into names are removed.

    Args:
        source: A file, see :func:`read_file`, or its content: a state dict, a checkpoint of this package, or a
            dictionary with the state dict under one of the usual keys, such as ``state_dict``, ``model`` or ``ema``.
            Entries that are not weights are left out, with a warning that names up to three.

    Raises:
        FileNotFoundError: See :func:`read_file`.
        ValueError: See :func:`read_file`, and if there are no weights.
    """
    content: Any = read_file(source) if isinstance(source, str | Path) else source
    found = _state_dict(content)
    weights = {_unwrapped(name): weight for name, weight in found.items() if _is_weight(weight)}
    place = f" in {source}" if isinstance(source, str | Path) else ""
    if not weights:
        raise ValueError(f"expected weights by name{place}, got {_described(content)}")
    others = [str(name) for name, value in found.items() if not _is_weight(value)]
    if others:
        warnings.warn(f"expected only weights{place}; left out: {_listed(others)}", stacklevel=2)
    return weights


def prefix_of(names: Collection[str], own: Collection[str]) -> str | None:
    """The prefix that a file adds to most of a network's names.

    Args:
        names: The names in the file.
        own: The network's names.

    Returns:
        The prefix, possibly empty; None if no prefix matches more than half of the network's names.
    """
    wanted = {name for name in own if not name.endswith(COUNTER)}
    votes: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                votes["".join(f"{part}." for part in parts[:start])] += 1
    # Of several copies of a network, such as a moving average, choose the one with the shortest prefix.
    prefix = max(votes, key=lambda prefix: (votes[prefix], -len(prefix)), default=None)
    return prefix if prefix is not None and 2 * votes[prefix] > len(wanted) else None


def load_into(network: nn.Module, weights: Mapping[str, Tensor], new_classifier: bool = False) -> None:
    """Copy weights into a network.

    Names in the file may have a prefix: the one that matches most of the network's names. They may also lack a prefix
    that all of the network's names have, as in a network that another module wraps. Other entries of the file are left
    out, with a warning that names up to three.

    Args:
        network: The network.
        weights: Weights by name, see :func:`read_weights`. BatchNorm's ``num_batches_tracked`` may be missing, because
            older files lack it.
        new_classifier: Whether to reinitialise layers that have another number of classes, with a warning that names
            them.

    Raises:
        ValueError: If weights are missing or have other shapes. The error names up to three of each, and nothing is
            copied.
    """
    own = {name: weight for name, weight in network.state_dict().items() if isinstance(weight, Tensor)}
    found, rest = _assigned(list(own), weights)
    missing = [name for name in own if name not in found and not name.endswith(COUNTER)]
    reshaped = [name for name, weight in found.items() if own[name].shape != weight.shape]
    counts = {(found[name].shape[:1], own[name].shape[:1]) for name in reshaped}
    only_classes = len(counts) == 1 and all(
        found[name].ndim == own[name].ndim > 0 and found[name].shape[1:] == own[name].shape[1:] for name in reshaped
    )
    if missing or (reshaped and not (only_classes and new_classifier)):
        shapes = [f"{name} {tuple(found[name].shape)} instead of {tuple(own[name].shape)}" for name in reshaped]
        problems = [("missing", missing), ("of another shape", shapes), ("unexpected", rest)]
        raise ValueError(
            f"expected the {len(own)} weights of this {type(network).__name__}, got others: "
            + "; ".join(f"{len(names)} {problem}: {_listed(names)}" for problem, names in problems if names)
            + (
                "; for another number of classes, new_classifier=True reinitialises the last layers"
                if only_classes and not missing
                else ""
            )
        )
    check_finite(network, found, "the weights to start from")
    if rest:
        warnings.warn(
            f"the weights hold more than this {type(network).__name__} has; left out: {_listed(rest)}", stacklevel=2
        )
    if reshaped:
        _reinitialise(network, reshaped)
        ((old, *_), (new, *_)), *_ = counts
        names = _listed(reshaped, most=len(reshaped))
        warnings.warn(f"the weights are of {old} classes instead of {new}: {names} are reinitialised", stacklevel=2)
    network.load_state_dict({name: w for name, w in found.items() if name not in reshaped}, strict=False)


def _is_plain_archive(path: Path) -> bool:
    """Whether the file is a zip archive. A compressed archive is refused, because it could unpack to any size."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise ValueError("expected an archive of torch.save, got one with compressed records; save it again")
    return True


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == PICKLE


def _state_dict(content: Any, depth: int = 3) -> Mapping[Any, Any]:
    """The state dict in a file's content. The depth is limited, because a file may have cycles."""
    if not isinstance(content, Mapping):
        return {}
    inner = (_state_dict(content.get(place), depth - 1) for place in PLACES if depth)
    return next((found for found in inner if any(map(_is_weight, found.values()))), content)


def _is_weight(value: Any) -> bool:
    """Whether the value is a tensor that can be copied into a network."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_meta or value.is_quantized)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in str(name).split(".") if part not in WRAPPERS)


def _assigned(own: Collection[str], weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under the network's names, and the names of the remaining weights."""
    for lacking in ("", _common_prefix(list(map(_unwrapped, own)))):
        names = {_unwrapped(name).removeprefix(lacking): name for name in own}
        prefix = prefix_of(weights, names)
        if prefix is not None:
            break
    else:
        prefix, names = "", {_unwrapped(name): name for name in own}
    found = {own_name: weights[prefix + name] for name, own_name in names.items() if prefix + name in weights}
    rest = [name for name in weights if not (name.startswith(prefix) and name.removeprefix(prefix) in names)]
    if prefix.startswith("network."):  # as in checkpoints of this package
        rest = [name for name in rest if name.partition(".")[0] not in BESIDE]
    return found, rest


def _common_prefix(names: list[str]) -> str:
    """The common prefix of all names, in whole module names."""
    first, last = min(names, default="").split(".")[:-1], max(names, default="").split(".")[:-1]
    return "".join(f"{part}." for part, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def _reinitialise(network: nn.Module, weights: list[str]) -> None:
    """Reinitialise the layers of these weights."""
    for layer in {name.rpartition(".")[0] for name in weights}:
        reset: Any = getattr(network.get_submodule(layer), "reset_parameters", None)
        if reset is not None:
            reset()


def _described(weights: Any) -> str:
    if not isinstance(weights, Mapping):
        return f"a {type(weights).__name__}"
    return f"a dictionary of {_listed([f'{name} ({type(value).__name__})' for name, value in weights.items()])}"


def _listed(names: list[str], most: int = 3) -> str:
    """The first names in alphabetical order, as text."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + rest if names else "nothing"
