"""Reading W&B sweep files as lists of cells."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from cpg_lightning.configurations import hint

DEFAULT_COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]  # of W&B's agent
ENVIRONMENT_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
# Keys of a sweep file that define the cells or describe the sweep.
KEYS = ("name", "description", "project", "entity", "program", "method", "metric", "parameters", "command")
LONGEST_NAME = 200  # bytes; file systems allow 255
NOT_IN_A_NAME = re.compile(r"[^\w.+=,-]+")


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Args:
        study: Name of the study: the sweep file's ``name``, or else the stem of the file.
        name: Values of all parameters in their order, such as ``lraspp-ce_cpg-1``.
        command: The command line that W&B's agent would run.
        file: The sweep file.
    """

    study: str
    name: str
    command: tuple[str, ...]
    file: Path


def read_sweep(file: Path) -> list[Cell]:
    """The cells of a sweep file: all combinations of parameter values. The last parameter varies fastest.

    Args:
        file: A W&B sweep configuration with ``method: grid``, see
            https://docs.wandb.ai/models/sweeps/define-sweep-configuration.

    Raises:
        ValueError: If the file is not a sweep configuration, or not a grid of values.
    """
    try:
        text = file.read_text(encoding="utf-8")
        sweep = yaml.safe_load(text)
        repeated = next(_repeated_keys(yaml.compose(text)), None)
    except OSError as error:
        raise ValueError(
            f"expected a sweep file that can be read, got {file} ({error.strerror}){hint(str(file))}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a sweep file in YAML, got {file}: {error}") from error
    if not isinstance(sweep, dict) or not isinstance(sweep.get("parameters"), dict) or not sweep["parameters"]:
        raise ValueError(f"expected a sweep file with parameters, got none: {file}")
    if repeated is not None:
        raise ValueError(f"expected each key once, got {repeated!r} more than once in one section: {file}")
    if sweep.get("method") != "grid":
        raise ValueError(
            f"expected method: grid, got {sweep.get('method')}: {file}; W&B runs other searches: wandb sweep {file}"
        )
    if unknown := [str(key) for key in sweep if key not in KEYS]:
        raise ValueError(f"expected only the keys {', '.join(KEYS)}, got {', '.join(unknown)}: {file}")
    parameters = {str(name): _values(str(name), entry, file) for name, entry in sweep["parameters"].items()}
    study = slug(str(sweep.get("name") or file.stem))
    return [
        _cell(study, dict(zip(parameters, values, strict=True)), sweep, file)
        for values in product(*parameters.values())
    ]


def read_study(files: Sequence[Path]) -> list[Cell]:
    """The cells of several sweep files in order; a cell in two files is listed once.

    Raises:
        ValueError: If two different cells of a study have the same name; see also :func:`read_sweep`.
    """
    cells: dict[tuple[str, str], Cell] = {}
    for cell in (cell for file in files for cell in read_sweep(file)):
        first = cells.setdefault((cell.study, cell.name), cell)
        if first.command != cell.command:
            places = str(cell.file) if first.file == cell.file else f"{first.file} and {cell.file}"
            raise ValueError(
                f"expected a folder for each cell, got {cell.study}/{cell.name} for two different cells of {places}; "
                "rename one of the files in their values, or give the studies different names"
            )
    return list(cells.values())


def slug(value: Any) -> str:
    """A parameter value, usable in a folder name.

    Example:
        >>> [slug(value) for value in ("experiments/criteria/ce_cpg.yaml", 0.5, False, "../x y")]
        ['ce_cpg', '0.5', 'false', 'x_y']
    """
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        value = Path(value).stem
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return NOT_IN_A_NAME.sub("_", text).strip("._") or "_"


def _cell(study: str, values: dict[str, Any], sweep: dict[str, Any], file: Path) -> Cell:
    name = "-".join(slug(value) for value in values.values())
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(
            f"expected a folder name of at most {LONGEST_NAME} bytes from the values, got {name}: {file}; "
            "put long options into a YAML file and use the file as the value"
        )
    return Cell(study, name, tuple(_command(sweep, values, file)), file)


def _values(name: str, entry: Any, file: Path) -> list[Any]:
    """The values of one parameter."""
    if not isinstance(entry, dict):
        raise ValueError(f"expected parameter {name} to have values or value, got {entry!r}: {file}")
    if "parameters" in entry:
        raise ValueError(
            f"expected flat parameters, got the nested {name}: {file}; write its parts with dots, such as {name}.part"
        )
    if len({"value", "values"} & set(entry)) != 1 or set(entry) - {"value", "values", "distribution"}:
        raise ValueError(f"expected parameter {name} to have values or value, got {', '.join(map(str, entry))}: {file}")
    values = entry["values"] if "values" in entry else [entry["value"]]
    if not isinstance(values, list) or not values:
        raise ValueError(f"expected parameter {name} to have a list of values, got {values!r}: {file}")
    if any(_has_none(value) for value in values):
        raise ValueError(f"expected values, got null for parameter {name}: {file}; W&B would pass it as the word None")
    return values


def _command(sweep: dict[str, Any], values: dict[str, Any], file: Path) -> Iterator[str]:
    """The command of a cell, as ``wandb.wandb_agent.Agent`` builds it."""
    command = sweep.get("command") or DEFAULT_COMMAND
    if not isinstance(command, list):
        raise ValueError(f"expected command to be a list, got {command!r}: {file}")
    options = [f"{name}={value}" for name, value in values.items()]
    flags = [  # false flags are left out
        f"--{name}" if isinstance(value, bool) else f"--{name}={value}"
        for name, value in values.items()
        if value is not False
    ]
    macros = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": ["python"],
        "${program}": [str(sweep["program"])] if "program" in sweep else [],
        "${args}": [f"--{option}" for option in options],
        "${args_no_hyphens}": options,
        "${args_no_equals}": [word for name, value in values.items() for word in (f"--{name}", str(value))],
        "${args_no_boolean_flags}": flags,
        "${args_json}": [json.dumps(values)],
    }
    for word in (str(each) for each in command):
        word = ENVIRONMENT_VARIABLE.sub(lambda match: os.environ.get(match[1], match[1]), word)
        if word.startswith("${") and word.endswith("}"):
            if not macros.get(word):
                raise ValueError(
                    f"expected words of command in braces to be among {', '.join(macros)}, got {word}: {file}"
                )
            yield from macros[word]
        else:
            yield word


def _has_none(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return value is None or any(_has_none(part) for part in parts)


def _repeated_keys(node: Any) -> Iterator[str]:
    """Keys that occur twice in a section; YAML would silently keep the last."""
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _repeated_keys(child)
    elif isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        yield from (key for key in keys if keys.count(key) > 1)
        for _, child in node.value:
            yield from _repeated_keys(child)
