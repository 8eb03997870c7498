"""Check that the last optimizer on the command line does not inherit the learning rate of another optimizer."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch.cli import OptimizerCallable

from cpg_lightning.parsing import YAML, load_yaml

OPTION = "--model.optimizer"
CLASS_OPTIONS = (OPTION, f"{OPTION}.class_path")
LR_OPTIONS = (f"{OPTION}.lr", f"{OPTION}.init_args.lr")


def check_inherited_lr(arguments: Sequence[str]) -> None:
    """Raise an error if an optimizer inherits the learning rate of an optimizer that was given before it.

    If a second optimizer class is given, jsonargparse keeps those arguments of the first one that the second one also
    accepts. For the learning rate this is a mistake: good values for AdamW and for SGD are far apart.

    Args:
        arguments: The command line, after jsonargparse has accepted it.

    Raises:
        ValueError: If the learning rate of the last optimizer depends on an optimizer that was given before it.
    """
    given = list(_given(arguments))
    names = [option.partition("=")[0] for option in given]
    classes = [number for number, name in enumerate(names) if name in CLASS_OPTIONS]
    if len(classes) < 2 or any(name in LR_OPTIONS for name in names[classes[-1] :]):
        return  # there is no second class, or it has its own learning rate
    steps = [_optimizer(given[: number + 1]) for number in range(len(given))]
    changes = [
        (number, before, after)
        for number, (before, after) in enumerate(pairwise(steps), start=1)
        if before is not None and after is not None and before.class_path != after.class_path
    ]
    if not changes or steps[-1] is None:
        return
    number, before, after = changes[-1]
    alone = _optimizer(given[number:])
    rate = steps[-1].init_args.get("lr")
    own = None if alone is None else alone.init_args.get("lr")
    if str(rate) != str(own):  # compared as text, because NaN != NaN
        earlier, later = (each.class_path.rpartition(".")[2] for each in (before, after))
        raise ValueError(
            f"expected a learning rate for {later}, got none: it would inherit {rate} from {earlier}, but its own default is "
            f"{own}; set {OPTION}.lr"
        )


def _optimizer(given: list[str]) -> Namespace | None:
    """Return the optimizer with all arguments that results from some options, or None."""
    parser = ArgumentParser(exit_on_error=False, parser_mode=YAML)
    parser.add_argument(OPTION, type=OptimizerCallable | None, enable_path=True)
    try:
        optimizer = parser.parse_args(given).model.optimizer
    except ArgumentError:  # these options lack an argument that other options give
        return None
    return optimizer if isinstance(optimizer, Namespace) else None


def _given(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the options of the optimizer in their order, including those in configuration files."""
    for option, value in _pairs(arguments):
        if option in ("--config", "-c"):
            yield from _given_by_file(Path(value))
        elif option == OPTION or option.startswith(f"{OPTION}."):
            yield f"{option}={value}"


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield options with their values. A value follows after ``=`` or is the next argument."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if argument.startswith("-"):
            yield option, value if equals else following


def _given_by_file(path: Path) -> Iterator[str]:
    config = load_yaml(path.read_text()) if path.is_file() else {}
    included = config.get("config") or []
    for each in included if isinstance(included, list) else [included]:
        yield from _given_by_file(path.parent / each)
    optimizer: Any = (config.get("model") or {}).get("optimizer")
    if isinstance(optimizer, str) and (path.parent / optimizer).is_file():
        optimizer = str(path.parent / optimizer)
    if optimizer is not None:
        yield f"{OPTION}={optimizer if isinstance(optimizer, str) else json.dumps(optimizer)}"
