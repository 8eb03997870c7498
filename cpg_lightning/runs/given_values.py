"""Values of a configuration that differ from their defaults, as plain values."""

import json
from collections.abc import Mapping
from hashlib import sha256
from inspect import Parameter, signature
from typing import Any

from cpg_lightning.parsing import import_object


def without_defaults(entry: Mapping[str, Any], leave: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    """Return a class with only those arguments that differ from their defaults."""
    arguments = {name: value for name, value in (entry.get("init_args") or {}).items() if name not in leave}
    kept = select_non_defaults(arguments, tuple(arguments), defaults_of(import_object(entry["class_path"])))
    return {"class_path": entry["class_path"], **({"init_args": kept} if kept else {})}


def plain_value(value: Any) -> Any:
    """Convert a value of a configuration to plain values. Classes in it lose the arguments that equal their defaults."""
    if isinstance(value, Mapping):
        return (
            without_defaults(value)
            if "class_path" in value
            else {str(name): plain_value(each) for name, each in value.items()}
        )
    if isinstance(value, list | tuple):
        return [plain_value(each) for each in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def select_non_defaults(
    values: Mapping[str, Any], names: tuple[str, ...], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Select the values of some names that are neither None nor equal to their defaults."""
    given = {name: plain_value(values[name]) for name in names if values.get(name) is not None}
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
