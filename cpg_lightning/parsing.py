"""The parser of the ``cpg`` command: short error messages, and checks of class paths before they are called."""

import enum
import math
import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib import import_module
from inspect import isclass, signature
from typing import Any, NoReturn, Union, get_args, get_type_hints

import yaml
from jsonargparse import Namespace, get_loader, set_dumper, set_loader
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cpg_lightning.command import WITHOUT_LIGHTNING
from cpg_lightning.configurations import hint
from cpg_lightning.data import Augmentation, SegmentationDataModule
from cpg_lightning.inference import Inference
from cpg_lightning.losses import SegmentationCriterion
from cpg_lightning.networks import SegmentationNetwork

YAML = "cpg_yaml"  # the parser's mode
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is not in every build of PyYAML
MOST_NODES = 100_000  # largest number of YAML nodes in a configuration file
# jsonargparse passes on the values of options such as --data.augmentation.scale, two classes deep, as Python prints them.
PRINTED = {"None": None, "nan": math.nan, "inf": math.inf, "-inf": -math.inf}

FAMILIES: tuple[type[Any], ...] = (
    SegmentationDataModule,
    Augmentation,
    SegmentationNetwork,
    SegmentationCriterion,
    Inference,
    Callback,
    Logger,
    Optimizer,
    LRScheduler,
)
# jsonargparse lists each type that was tried. These lines do not help the user.
NOISE = re.compile(
    r"\s*(- )?(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value type: |"
    r"Given value: (NestedArg|Namespace|\{)|Expected a <class 'NoneType'>|Expected a path but [^/ ]* either not accessible)"
)
UNKNOWN_NAME = re.compile(r"(?:Expected a dot import path string|Unexpected import path format): (\S+)")
UNKNOWN_OPTION = re.compile(r"Option '(\w+)' is not accepted")
GIVEN_CLASS = re.compile(r"Problem with given class_path '([\w.]+)'")
NO_AUGMENTATION = "the following arguments are required: augmentation"
UNRECOGNIZED = re.compile(r"unrecognized arguments: --([\w.]+)")
NO_FILE = re.compile(r"File does not exist: '(.+)'")
UNKNOWN_COMMAND = re.compile(r"argument subcommand: invalid choice: '([^']*)'")
COMMANDS = (*LightningCLI.subcommands(), "check-data", *(name for (name,) in WITHOUT_LIGHTNING))


class Parser(LightningArgumentParser):
    """LightningArgumentParser with short error messages and suggestions."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with status 2."""
        super().error(self._shortened(message), ex)

    def _shortened(self, message: str) -> str:
        lines = [line for line in message.splitlines() if line.strip() and not NOISE.match(line)]
        shortened = "\n".join(dict.fromkeys(lines))  # without repetitions, in order
        meant = ""
        if unknown := UNKNOWN_COMMAND.search(message):
            shortened = f"expected one of the commands {', '.join(COMMANDS)}; got {unknown[1]}"
            meant = _did_you_mean(unknown[1], COMMANDS)
        elif unknown := UNKNOWN_NAME.search(message):
            known_classes = [known for family in FAMILIES for known in (family, *subclasses(family))]
            meant = hint(unknown[1]) or _did_you_mean(unknown[1], (known.__name__ for known in known_classes))
            shortened = UNKNOWN_NAME.sub(r"expected the name of a class, a class path or a file, got \1", shortened)
            shortened = shortened.partition("\n  Given value: ")[0]
        elif unknown := UNKNOWN_OPTION.search(message):
            known = GIVEN_CLASS.findall(message)
            meant = _did_you_mean(unknown[1], signature(import_object(known[-1])).parameters if known else ())
        elif NO_AUGMENTATION in message:
            meant = '; give the size of training crops, e.g. --data.augmentation.crop_size "[512, 512]"'
        elif missing := NO_FILE.search(message):
            meant = hint(os.path.relpath(missing[1]))
        elif unknown := UNRECOGNIZED.search(message):
            meant = _did_you_mean(unknown[1], (name.lstrip("-") for name in self._option_string_actions))
        return shortened + meant


def subclasses(family: type[Any]) -> list[type[Any]]:
    """Return all subclasses of a class, at any depth."""
    return [each for child in family.__subclasses__() for each in (child, *subclasses(child))]


def import_object(class_path: str) -> Any:
    """Import and return the object of an import path."""
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


def configured_classes(entry: Any) -> list[Namespace]:
    """Return the configured classes of an option: its value is one class with arguments, a list of them, or None."""
    entries = entry if isinstance(entry, list) else [entry]
    return [each for each in entries if isinstance(each, Namespace)]


def try_integers_first(parser: LightningArgumentParser) -> None:
    """Read 1 as an integer where an option is an integer or a floating-point number: one batch, not 1.0 of all batches.

    jsonargparse tries types in their order, which is not always that of the source: it builds ``Optional[Union[int, float]]``,
    for which Python up to 3.13 may return an equal type that was built before, ``Optional[Union[float, int]]``.
    """
    for action in parser._actions:
        types = list(get_args(getattr(action, "_typehint", None)))
        if int in types and float in types:
            types.remove(int)
            types.insert(types.index(float), int)
            setattr(action, "_typehint", Union[tuple(types)])  # noqa: B010, UP007


def check_callables(config: Namespace) -> None:
    """Check that each ``class_path`` names a class, before it is called.

    As in jsonargparse, a function is accepted if its annotation says that it returns the expected class.

    Raises:
        ValueError: If a class path names a function without such an annotation, if ``model.optimizer`` is not an
            optimizer, if ``model.lr_schedule`` is not a scheduler, or if one of their numbers is not finite.
    """
    for option, family, name in (("optimizer", Optimizer, "optimizer"), ("lr_schedule", LRScheduler, "scheduler")):
        built = config.model.get(option)
        if not isinstance(built, Namespace):
            continue
        if not _gives(import_object(built.class_path), family):
            raise ValueError(f"expected model.{option} to be a torch {name}, got {built.class_path}")
        options = built.get("init_args") or {}
        for argument, number in (vars(options) if isinstance(options, Namespace) else options).items():
            if isinstance(number, float) and not math.isfinite(number):  # torch's own checks let NaN pass
                raise ValueError(f"expected model.{option}.{argument} to be a finite number, got {number}")
    for class_path in _class_paths(config):
        if not _gives(import_object(class_path), object):
            raise ValueError(f"expected class_path to name a class, got the function {class_path}")


def check_trainer(trainer: Namespace) -> None:
    """Check options that the Trainer accepts but that fail later or have no effect here.

    Raises:
        ValueError: If a number is out of range, or if there is a LearningRateFinder.
    """
    for name, smallest in (
        ("accumulate_grad_batches", 1),
        ("check_val_every_n_epoch", 1),
        ("gradient_clip_val", 0),
        ("log_every_n_steps", 0),
        ("max_epochs", -1),
        ("max_steps", -1),
        ("num_nodes", 1),
    ):
        number = trainer.get(name)
        if number is not None and not smallest <= number < math.inf:
            raise ValueError(f"expected trainer.{name} to be {smallest} or more, got {number}")
    interval = trainer.get("val_check_interval")
    if isinstance(interval, int | float) and not 0 < interval < math.inf:
        raise ValueError(
            f"expected trainer.val_check_interval to be a number of batches or a share of an epoch above 0, got {interval}"
        )
    for callback in configured_classes(trainer.get("callbacks")):
        if callback.class_path.endswith(".LearningRateFinder"):
            raise ValueError(
                "expected no LearningRateFinder: the learning rate is an option of model.optimizer, and it changes from the "
                "first step; compare a few short runs with different --model.optimizer.lr instead"
            )


def plain_values(parser: LightningArgumentParser, config: Namespace, complete: bool = False) -> dict[str, Any]:
    """Return a configuration as plain values.

    Args:
        parser: The parser of the configuration.
        config: The configuration.
        complete: Whether to keep the options that are None and those that a link sets.
    """
    text = parser.dump(config, skip_validation=True, skip_unset=not complete, skip_link_targets=not complete)
    plain: dict[str, Any] = yaml.load(text, Loader=LOADER)
    return plain


def load_yaml(text: str) -> Any:
    """Read YAML as jsonargparse does, but without duplicate keys and without aliases that expand endlessly.

    A value that is not a mapping may also be written as Python prints it: ``None``, ``nan``, ``inf`` or a list of these.

    Raises:
        yaml.YAMLError: If a key is duplicate, if aliases expand to too many nodes, or if the text is not YAML.
    """
    root = yaml.compose(text, Loader=LOADER)
    if root is not None:
        _count_nodes(root, {})
    return _from_printed(get_loader("yaml")(text))


def dump_yaml(config: Any) -> str:
    """Write a configuration as YAML. Enumerations become their values, because the standard dumper refuses them."""
    text: str = yaml.safe_dump(_without_enums(config), default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text


set_loader(YAML, load_yaml, (yaml.YAMLError,))
set_dumper(YAML, dump_yaml)


def _from_printed(value: Any) -> Any:
    """Convert a value that Python has printed back. Mappings, which come from configuration files, stay unchanged."""
    if isinstance(value, list):
        return [_from_printed(each) for each in value]
    return PRINTED.get(value, value) if isinstance(value, str) else value


def _count_nodes(node: yaml.Node, sizes: dict[yaml.Node, int]) -> int:
    """Count a node and all nodes below it, with expanded aliases."""
    if node in sizes:
        return sizes[node]
    sizes[node] = MOST_NODES + 1  # during the count, so that an alias to an enclosing node is an error
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"expected each key once, got {twice!r} more than once in one section")
        children = [child for pair in node.value for child in pair]
    sizes[node] = 1 + sum(_count_nodes(child, sizes) for child in children)
    if sizes[node] > MOST_NODES:
        raise yaml.YAMLError(
            f"expected a configuration of at most {MOST_NODES} values, got aliases that expand to more"
        )
    return sizes[node]


def _without_enums(config: Any) -> Any:
    if isinstance(config, dict):
        return {name: _without_enums(value) for name, value in config.items()}
    if isinstance(config, list):
        return [_without_enums(value) for value in config]
    return config.value if isinstance(config, enum.Enum) else config


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    matches = get_close_matches(name, sorted(set(known)), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def _gives(called: Any, family: type[Any]) -> bool:
    """Whether a class is a subclass of ``family``, or a function has an annotation that it returns one."""
    if isclass(called):
        return issubclass(called, family)
    try:
        result = get_type_hints(called).get("return")
    except (AttributeError, NameError, TypeError):  # annotations that cannot be resolved are ignored
        return False
    return isclass(result) and result is not type(None) and issubclass(result, family)


def _class_paths(config: Any) -> Iterator[str]:
    """Yield each class path in a configuration, at any depth."""
    if isinstance(config, Namespace | dict):
        entries = vars(config) if isinstance(config, Namespace) else config
        if "." in str(entries.get("class_path", "")):
            yield entries["class_path"]
        for value in entries.values():
            yield from _class_paths(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _class_paths(value)
