"""The experiment of a run: its name, and a key of everything that changes the results but the seed."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import lightning as L

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.data.predicted import file_digest
from cpg_lightning.parsing import imported
from cpg_lightning.runs.folder import RunFolder

# Raised by one when a default changes that changes results: it is left out of the key where it is not set.
VERSION = 1
PARTS = ("data", "network", "criterion", "recipe", "inference")

# Options of the data module that do not change the results of a training, or that belong to the recipe.
NOT_DATA = {
    *("root", "images", "labels", "lists", "classes", "split_names"),  # the class names and the counts stand for them
    *("num_workers", "eval_batch_size", "max_pixels", "test_split", "predict_split", "predict_images"),
    *("batch_size", "augmentation"),
}
# Options of the module likewise, or that are parts of their own.
NOT_RECIPE = {
    *("network", "criterion", "inference", "weights", "new_classifier", "image_size", "classes"),
    *("predict_probabilities", "boundary_metrics_every", "compile_network", "evaluation_loss"),
}
RECIPE = (
    *("max_epochs", "max_steps", "min_epochs", "min_steps", "limit_train_batches", "overfit_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "precision", "sync_batchnorm"),
)
# Arguments of a criterion that have a short form in names.
SHORT = {"kernel_size": "k", "ohem_threshold": "ohem", "label_smoothing": "smooth"}
# Lightning's callbacks that change neither the weights nor the end of a training. Others state it: ``only_watches = True``.
WATCHING = {
    *("ModelCheckpoint", "OnExceptionCheckpoint", "LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor"),
    *("ModelSummary", "RichModelSummary", "RichProgressBar", "TQDMProgressBar"),
}


@dataclass(frozen=True)
class Experiment:
    """Everything that changes the results of a run but its seed.

    Attributes:
        name: Readable, e.g. ``camvid-lraspp-ce+cpg0.5``.
        parts: For data, network, criterion, recipe and inference a name and the values that are not at their defaults.
    """

    name: str
    parts: Mapping[str, Mapping[str, Any]]

    @property
    def digests(self) -> dict[str, str]:
        """A digest of the values of each part."""
        return {part: digest(values["values"]) for part, values in self.parts.items()}

    @property
    def key(self) -> str:
        """The experiment key: runs that differ in their seed alone have the same."""
        return digest({"version": VERSION, **self.digests})

    def plain(self) -> dict[str, Any]:
        """Plain values for ``experiment.json``."""
        digests = self.digests
        parts = {part: {**values, "digest": digests[part]} for part, values in self.parts.items()}
        return {"version": VERSION, "key": self.key, "name": self.name, "parts": parts}

    def differences(self, earlier: Mapping[str, Any]) -> list[str]:
        """The values in which an earlier ``experiment.json`` differs, in words."""
        now, then = (
            dict(_flat({part: each["values"] for part, each in parts.items()}))
            for parts in (self.parts, earlier["parts"])
        )
        names = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        default = "its default"
        return [f"{name} is {now.get(name, default)} instead of {then.get(name, default)}" for name in names]


def digest(values: Any) -> str:
    """A short digest of plain values."""
    return sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


def check_same(experiment: Experiment, seed: int, folder: RunFolder, only_longer: bool) -> bool:
    """Refuse to continue a run by another experiment or seed.

    Args:
        experiment: What is to be trained.
        seed: Its seed.
        folder: The folder of the run.
        only_longer: Whether the training may end at another epoch or step.

    Returns:
        Whether it is to end at another.

    Raises:
        ValueError: If they differ; it names the options that do.
    """
    earlier = folder.experiment()
    differences = experiment.differences(earlier)
    if seed != earlier["seed"]:
        differences.append(f"seed_everything is {seed} instead of {earlier['seed']}")
    end = ("recipe.max_epochs ", "recipe.max_steps ")
    if only_longer and all(each.startswith(end) for each in differences):
        return bool(differences)
    if differences:
        raise ValueError(
            f"expected the configuration of the run in {folder.path}, got another: {'; '.join(differences)}. Choose another "
            "--output for another run; --model.weights starts it from this run's weights, and --ckpt_path continues this run to "
            "another max_epochs"
        )
    return False


def experiment_of(config: Mapping[str, Any], module: L.LightningModule, data: SegmentationDataModule) -> Experiment:
    """The experiment that a configuration describes.

    Args:
        config: The configuration as plain values: ``trainer``, ``model`` and ``data``.
        module: The :class:`~cpg_lightning.module.SegmentationModule` that was built from it.
        data: The :class:`~cpg_lightning.data.SegmentationDataModule`, after its ``setup("fit")``.
    """
    model, options, arguments = config["model"], config["trainer"], config["data"].get("init_args", {})
    defaults = _defaults(type(module))
    network = {**_short(model["network"]), **_weights(model)}
    for name in getattr(type(module.network), "paths", ()):
        path = Path(str(network.get("init_args", {}).get(name)))
        if path.is_file():
            network["init_args"] = {**network["init_args"], name: file_digest(path)}
    criterion = _short(model["criterion"], leave={"strip_logits"})
    kept = {name: value for name, value in arguments.items() if name not in NOT_DATA}
    values: dict[str, Any] = {
        "data": {
            **_short({**config["data"], "init_args": kept}),
            "names": list(data.classes.names),
            "images": {name: len(dataset) for name, dataset in data.datasets.items()},
        },
        "network": network,
        "criterion": criterion,
        "recipe": {
            **{
                name: _plain(value)
                for name, value in model.items()
                if name not in NOT_RECIPE and _plain(value) != _plain(defaults.get(name))
            },
            **_set({**options, **_limits_in_steps(options)}, RECIPE, _defaults(L.Trainer)),
            "images_a_step": data.batch_size,
            "augmentation": _plain(arguments.get("augmentation")),
            "callbacks": [_short(each) for each in _callbacks(options) if not _only_watches(each["class_path"])],
        },
        "inference": inference_of(config),
    }
    names = {
        "data": data_name(config),
        "network": network_name(config),
        "criterion": criterion_name(config),
        "recipe": digest(values["recipe"]),
        "inference": "whole" if values["inference"] == {"inference": None} else digest(values["inference"]),
    }
    parts = {part: {"name": names[part], "values": values[part]} for part in PARTS}
    return Experiment(readable_name(config), parts)


def inference_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values that decide how images are evaluated."""
    limits = _set(config["trainer"], ("limit_val_batches", "limit_test_batches"), _defaults(L.Trainer))
    return {"inference": _plain(config["model"].get("inference")), **limits}


def readable_name(config: Mapping[str, Any]) -> str:
    """What a run trains, e.g. ``camvid-lraspp-ce+cpg0.5``."""
    return f"{data_name(config)}-{network_name(config)}-{criterion_name(config)}"


def data_name(config: Mapping[str, Any]) -> str:
    """The dataset, e.g. ``camvid``; of a folder of one's own, the folder's name."""
    kind = class_name(config["data"]["class_path"]).removesuffix("DataModule").lower()
    root = Path(str(config["data"].get("init_args", {}).get("root", ""))).name
    return _file_name(root) if kind == "folder" and _file_name(root) else kind


def network_name(config: Mapping[str, Any]) -> str:
    """The network, e.g. ``lraspp``; of a family, which one; of an adapter, what it wraps."""
    network = config["model"]["network"]
    arguments = network.get("init_args", {})
    parts = [arguments.get(name) for name in ("architecture", "encoder", "model_type")]
    wrapped = arguments.get("network")
    if isinstance(wrapped, Mapping) and "class_path" in wrapped:
        parts.append(class_name(wrapped["class_path"]))
    elif isinstance(wrapped, str):
        parts.append(class_name(wrapped))
    return "-".join(_file_name(str(part)) for part in (class_name(network["class_path"]), *parts) if part).lower()


def criterion_name(config: Mapping[str, Any]) -> str:
    """The criterion with its numbers that are not at their defaults, e.g. ``ce+cpg0.5-k5`` or ``0.25ce+0.75jaccard``."""
    return _file_name(_loss_name(config["model"]["criterion"]))


def _loss_name(criterion: Mapping[str, Any]) -> str:
    parts = criterion.get("init_args", {}).get("losses")
    if isinstance(parts, list):
        weights = criterion["init_args"].get("weights") or [1] * len(parts)
        pairs = zip(weights, parts, strict=True)
        return "+".join(f"{'' if weight == 1 else f'{weight:g}'}{_loss_name(part)}" for weight, part in pairs)
    arguments = dict(_short(criterion, leave={"strip_logits"}).get("init_args", {}))
    if "cpg_weight" not in criterion.get("init_args", {}):
        name = class_name(criterion["class_path"]).removesuffix("Loss").lower()
    else:
        weight = criterion["init_args"]["cpg_weight"]
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


def _short(entry: Mapping[str, Any], leave: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    """A class with those of its arguments that are not at their defaults."""
    arguments = {name: value for name, value in (entry.get("init_args") or {}).items() if name not in leave}
    kept = _set(arguments, tuple(arguments), _defaults(imported(entry["class_path"])))
    return {"class_path": entry["class_path"], **({"init_args": kept} if kept else {})}


def _plain(value: Any) -> Any:
    """A value of a configuration, without arguments at their defaults in the classes in it."""
    if isinstance(value, Mapping):
        return _short(value) if "class_path" in value else {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _set(values: Mapping[str, Any], names: tuple[str, ...], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values of some names that are neither None nor their defaults."""
    given = {name: _plain(values[name]) for name in names if values.get(name) is not None}
    return {name: value for name, value in given.items() if value != _plain(defaults.get(name))}


def _weights(model: Mapping[str, Any]) -> dict[str, Any]:
    """The weights that the network starts from, by their content."""
    if model.get("weights") is None:
        return {}
    return {"weights": file_digest(model["weights"]), "new_classifier": model.get("new_classifier", False)}


def _limits_in_steps(trainer: Mapping[str, Any]) -> dict[str, int]:
    """The limits of an epoch that are numbers of batches, as optimizer steps, which do not change with accumulation."""
    limits = {name: trainer.get(name) for name in ("limit_train_batches", "overfit_batches")}
    accumulated = trainer.get("accumulate_grad_batches", 1)
    return {name: limit // accumulated for name, limit in limits.items() if isinstance(limit, int)}


def _callbacks(trainer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    callbacks = trainer.get("callbacks") or []
    return callbacks if isinstance(callbacks, list) else [callbacks]


def _only_watches(class_path: str) -> bool:
    return class_name(class_path) in WATCHING or getattr(imported(class_path), "only_watches", False)


def _defaults(kind: Any) -> dict[str, Any]:
    """The defaults of the arguments with which something is called."""
    try:
        parameters = signature(kind).parameters
    except ValueError:  # a class in C may not tell
        return {}
    return {name: each.default for name, each in parameters.items() if each.default is not Parameter.empty}


def class_name(class_path: str) -> str:
    """The name of the class of an import path."""
    return class_path.rpartition(".")[2]


def _file_name(text: str) -> str:
    """Text without characters that folders and shells make something of."""
    return re.sub(r"[^\w.+=-]+", "_", text).strip("_.")


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, values
