"""Reading weight files without running what is in them, and filling networks with what fits."""

import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

Source = str | Path | Mapping[str, Tensor]
PICKLE = b"\x80"  # what every pickle begins with


def read_file(path: str | Path) -> Any:
    """What ``torch.save`` or safetensors wrote, on the CPU. Objects other than tensors and plain values are refused.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds other objects, which could run code when read, or cannot be read at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a file of weights, found none at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Files from before torch 1.6 are no zip archives, and cannot be mapped into memory.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error.__context__ or error).partition("\n")[0]  # torch wraps it into advice not to follow
        if not _is_pickle(path) and not zipfile.is_zipfile(path):
            raise ValueError(f"expected a file of weights, could not read {path}: {reason}") from error
        raise ValueError(
            f"expected tensors and plain values alone, got other objects in {path}, which could run code and are not "
            f"read ({reason}); where the file is to be trusted, save its state_dict() anew"
        ) from error
    except (OSError, EOFError, RuntimeError, SafetensorError, ValueError, KeyError) as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise ValueError(f"expected a file of weights, could not read {path}: {reason}") from error


def read_weights(source: Source) -> dict[str, Tensor]:
    """The weights of a network by name.

    Args:
        source: A file of :func:`read_file`: a state dict, a Lightning checkpoint of this package, or a dictionary with the
            state dict as ``state_dict`` or ``model``; or a state dict itself.

    Raises:
        FileNotFoundError: As :func:`read_file`.
        ValueError: As :func:`read_file`, and if there are no weights.
    """
    weights: Any = read_file(source) if isinstance(source, str | Path) else source
    place = f" in {source}" if isinstance(source, str | Path) else ""
    for key in ("state_dict", "model"):
        if isinstance(weights, Mapping) and isinstance(weights.get(key), Mapping):
            weights = weights[key]
            break
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ValueError(f"expected weights by name{place}, got {_described(weights)}")
    return dict(weights)


def without_wrappers(weights: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Weights without the prefixes that wrappers put before every name, unless the network's own names have them too.

    Args:
        weights: Weights by name. Of a checkpoint, the entries beside the network (the module's, a criterion's) are left
            out.
        own: The names of the network's own weights.
    """
    own, found = list(own), dict(weights)
    for prefix in ("network.", "module.", "_orig_mod.", "model."):
        beside = ("class_iou.", "criterion.", "mean", "std", "loss.", "module.loss.")
        inside = {name: weight for name, weight in found.items() if not name.startswith(beside)}
        if inside and all(name.startswith(prefix) for name in inside) and not any(n.startswith(prefix) for n in own):
            found = {name.removeprefix(prefix): weight for name, weight in inside.items()}
    return found


def fill(network: nn.Module, weights: Mapping[str, Tensor], new_classifier: bool = False) -> None:
    """Copy weights into a network.

    Args:
        network: The network.
        weights: Its weights by name, as of ``state_dict``, perhaps with prefixes, see :func:`without_wrappers`.
            BatchNorm's ``num_batches_tracked``, which older files do not have, may be missing.
        new_classifier: Whether layers of another number of classes are initialised anew instead, with a warning that
            names them.

    Raises:
        ValueError: If weights are missing, unexpected or of another shape; the error names up to
            ten of each, and nothing has been copied.
    """
    own = network.state_dict()
    weights = without_wrappers(weights, own)
    missing = [name for name in own.keys() - weights.keys() if not name.endswith("num_batches_tracked")]
    unexpected = list(weights.keys() - own.keys())
    reshaped = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    counts = {
        (len(weights[name]), len(own[name]))
        for name in reshaped
        if weights[name].ndim and own[name].ndim and weights[name].shape[1:] == own[name].shape[1:]
    }
    only_classes = len(counts) == 1 and all(weights[name].shape[1:] == own[name].shape[1:] for name in reshaped)
    if missing or unexpected or (reshaped and not (only_classes and new_classifier)):
        shapes = [f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}" for name in reshaped]
        problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
        raise ValueError(
            f"expected the weights of this {type(network).__name__}, got others: "
            + "; ".join(f"{len(names)} {problem}: {_listed(names)}" for problem, names in problems if names)
            + (
                "; for another number of classes, new_classifier=True starts the last layers anew"
                if only_classes and not missing and not unexpected
                else ""
            )
        )
    if reshaped:
        old, new = counts.pop()
        for module in {name.rpartition(".")[0] for name in reshaped}:
            reset: Any = getattr(network.get_submodule(module), "reset_parameters", None)
            if reset is not None:
                reset()
        warnings.warn(
            f"the weights are of {old} classes instead of {new}: {_listed(reshaped)} start anew", stacklevel=2
        )
    network.load_state_dict({name: w for name, w in weights.items() if name not in reshaped}, strict=False)


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == PICKLE


def _described(weights: Any) -> str:
    if not isinstance(weights, Mapping):
        return f"a {type(weights).__name__}"
    return f"a dictionary of {_listed([f'{name} ({type(value).__name__})' for name, value in weights.items()])}"


def _listed(names: list[str], most: int = 10) -> str:
    """Some names, in order."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + rest if names else "nothing"
