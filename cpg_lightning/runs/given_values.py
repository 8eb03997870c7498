"""Values of a configuration that differ from their defaults, as plain values."""

import json
import sys
from collections.abc import Collection, Mapping
from hashlib import sha256
from inspect import Parameter, signature
from typing import Any

from cpg_lightning.parsing import import_object


def without_defaults(entry: Mapping[str, Any], leave: Collection[str] = ()) -> dict[str, Any]:
    """Return a class with only those arguments that differ from their defaults.

    Args:
        entry: ``{"class_path": ..., "init_args": {...}, "dict_kwargs": {...}}``. ``dict_kwargs`` has the arguments that the
            class accepts as ``**kwargs``.
        leave: Arguments to leave out, of this class and of classes in its arguments.
    """
    kind = import_object(entry["class_path"])
    arguments = {name: value for name, value in arguments_of(entry).items() if name not in leave}
    kept = select_non_defaults(arguments, tuple(arguments), defaults_of(kind), leave)
    return {"class_path": shortest_path(kind, entry["class_path"]), **({"init_args": kept} if kept else {})}


def shortest_path(kind: Any, otherwise: str = "") -> str:
    """Return the shortest import path of a class. A class that a package imports too has several.

    Args:
        kind: The class, or a function that builds an object.
        otherwise: The result for an object that is not found by its own name.
    """
    name, parts = getattr(kind, "__name__", ""), str(getattr(kind, "__module__", "")).split(".")
    paths = ((".".join(parts[:number]), name) for number in range(1, len(parts) + 1) if name and parts[0])
    return next(
        (f"{module}.{name}" for module, name in paths if getattr(sys.modules.get(module), name, None) is kind),
        otherwise,
    )


def arguments_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a configured class."""
    return {**(entry.get("init_args") or {}), **(entry.get("dict_kwargs") or {})}


def plain_value(value: Any, leave: Collection[str] = ()) -> Any:
    """Convert a value of a configuration to plain values. Classes in it lose the arguments that equal their defaults."""
    if isinstance(value, Mapping):
        return (
            without_defaults(value, leave)
            if "class_path" in value
            else {str(name): plain_value(each, leave) for name, each in value.items()}
        )
    if isinstance(value, list | tuple):
        return [plain_value(each, leave) for each in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def select_non_defaults(
    values: Mapping[str, Any], names: tuple[str, ...], defaults: Mapping[str, Any], leave: Collection[str] = ()
) -> dict[str, Any]:
    """Select the values of some names that are neither None nor equal to their defaults."""
    given = {name: plain_value(values[name], leave) for name in names if values.get(name) is not None}
    return {name: value for name, value in given.items() if value != plain_value(defaults.get(name))}


def defaults_of(kind: Any) -> dict[str, Any]:
    """Return the defaults of a callable's arguments."""
    try:
        parameters = signature(kind).parameters
    except ValueError:  # a class written in C may have no signature
        return {}
    return {name: each.default for name, each in parameters.items() if each.default is not Parameter.empty}


def digest(values: Any) -> str:
    """Return a short digest of plain values."""
    return sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]
