"""The experiment of a run: a name, and a key of everything that changes the results, except the seed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.data.predicted import file_digest
from cpg_lightning.inference import Inference
from cpg_lightning.optimization import DEFAULT_OPTIMIZER
from cpg_lightning.parsing import import_object
from cpg_lightning.runs.folder import RunFolder
from cpg_lightning.runs.given_values import (
    arguments_of,
    defaults_of,
    digest,
    plain_value,
    select_non_defaults,
    shortest_path,
    without_defaults,
)
from cpg_lightning.runs.naming import class_name, criterion_name, data_name, network_name, readable_name

# Increase this when the default of an option changes and changes results. The key contains only options that are set.
VERSION = 1
PARTS = ("data", "network", "criterion", "recipe", "inference")

# Options of the data module that do not change the results of a training, or that belong to the recipe.
NOT_DATA = {
    *("root", "images", "labels", "lists", "classes", "split_names"),  # represented by class names and image counts
    *("num_workers", "eval_batch_size", "max_pixels", "test_split", "predict_split", "predict_images"),
    *("batch_size", "augmentation"),
}
# Options of the module that do not change the results, or that belong to other parts.
NOT_RECIPE = {
    *("network", "criterion", "inference", "weights", "new_classifier", "image_size", "classes"),
    *("predict_probabilities", "boundary_metrics_every", "compile_network", "evaluation_loss"),
}
RECIPE = (
    *("max_epochs", "max_steps", "min_epochs", "min_steps", "limit_train_batches", "overfit_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "precision", "sync_batchnorm"),
)
# What the module and the Trainer use for options that are None. An option with this value equals one that is not given.
BUILT_FOR_NONE: dict[str, type[Any]] = {"optimizer": DEFAULT_OPTIMIZER, "inference": Inference}
USED_FOR_NONE = {
    "gradient_clip_val": 0.0,
    "gradient_clip_algorithm": "norm",
    **dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches"), 1.0),
}
PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}  # other names in the Trainer
# Lightning's callbacks that change neither the weights nor the end of a training. Other such callbacks have the attribute
# ``only_watches = True``.
WATCHING = {
    *("ModelCheckpoint", "OnExceptionCheckpoint", "LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor"),
    *("ModelSummary", "RichModelSummary", "RichProgressBar", "TQDMProgressBar"),
}


@dataclass(frozen=True)
class Experiment:
    """Everything that changes the results of a run, except its seed.

    Attributes:
        name: Readable name, e.g. ``camvid-lraspp-ce+cpg0.5``.
        parts: For each of data, network, criterion, recipe and inference: a name, and the values that are not defaults.
    """

    name: str
    parts: Mapping[str, Mapping[str, Any]]

    @property
    def digests(self) -> dict[str, str]:
        """Digest of the values of each part."""
        return {part: digest(values["values"]) for part, values in self.parts.items()}

    @property
    def key(self) -> str:
        """Experiment key, which is equal for runs that differ only in their seed."""
        return digest({"version": VERSION, **self.digests})

    def plain(self) -> dict[str, Any]:
        """Return plain values for ``experiment.json``."""
        digests = self.digests
        parts = {part: {**values, "digest": digests[part]} for part, values in self.parts.items()}
        return {"version": VERSION, "key": self.key, "name": self.name, "parts": parts}

    def differences(self, earlier: Mapping[str, Any]) -> list[str]:
        """Describe the values in which an earlier ``experiment.json`` differs, one sentence each."""
        now, then = (
            dict(_flat({part: each["values"] for part, each in parts.items()}))
            for parts in (self.parts, earlier["parts"])
        )
        names = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        default = "its default"
        return [f"{name} is {now.get(name, default)} instead of {then.get(name, default)}" for name in names]


def check_same(experiment: Experiment, seed: int, folder: RunFolder, end_may_change: bool) -> bool:
    """Check that a run continues with the same experiment and seed.

    Args:
        experiment: The experiment of the configuration.
        seed: The seed of the configuration.
        folder: The folder of the run.
        end_may_change: Whether the training may end at another epoch or step.

    Returns:
        Whether the training ends at another epoch or step.

    Raises:
        ValueError: If the experiment or the seed differs. The message names the options.
    """
    earlier = folder.experiment()
    differences = experiment.differences(earlier)
    if seed != earlier["seed"]:
        differences.append(f"seed_everything is {seed} instead of {earlier['seed']}")
    end = ("recipe.max_epochs ", "recipe.max_steps ")
    if end_may_change and all(each.startswith(end) for each in differences):
        return bool(differences)
    if differences:
        raise ValueError(
            f"expected the configuration of the run in {folder.path}, got another: {'; '.join(differences)}. For another run, "
            "choose another --output; --model.weights starts it from the weights of this run. To continue this run to "
            "another max_epochs, use --ckpt_path"
        )
    return False


def experiment_of(
    config: Mapping[str, Any],
    module: L.LightningModule,
    data: SegmentationDataModule,
    earlier: Mapping[str, Any] | None = None,
) -> Experiment:
    """Return the experiment that a configuration describes.

    Args:
        config: The configuration as plain values: ``trainer``, ``model`` and ``data``.
        module: The :class:`~cpg_lightning.module.SegmentationModule` of the configuration.
        data: The :class:`~cpg_lightning.data.SegmentationDataModule`, after its ``setup("fit")``.
        earlier: The ``experiment.json`` of a run that continues. It has the digests of files that no longer exist.
    """
    model, options, arguments = config["model"], config["trainer"], config["data"].get("init_args", {})
    defaults = defaults_of(type(module))
    values: dict[str, Any] = {
        "data": {
            **data_of(config),
            "names": list(data.classes.names),
            "images": {name: len(dataset) for name, dataset in data.datasets.items()},
        },
        "network": _network(model, getattr(type(module.network), "paths", ()), earlier),
        "criterion": without_defaults(model["criterion"], leave={"strip_logits"}),
        "recipe": {
            **{
                name: _option_value(name, value)
                for name, value in model.items()
                if name not in NOT_RECIPE and _option_value(name, value) != plain_value(defaults.get(name))
            },
            **_trainer_options(options, RECIPE),
            "images_a_step": data.batch_size,
            "augmentation": plain_value(arguments.get("augmentation")),
            "callbacks": [
                without_defaults(each) for each in _callbacks(options) if not _only_watches(each["class_path"])
            ],
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


def data_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration that determine the data, apart from its files."""
    arguments = arguments_of(config["data"])
    kept = {name: value for name, value in arguments.items() if name not in NOT_DATA}
    return without_defaults({"class_path": config["data"]["class_path"], "init_args": kept})


def inference_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration that determine how images are evaluated."""
    limits = _trainer_options(config["trainer"], ("limit_val_batches", "limit_test_batches"))
    return {"inference": _option_value("inference", config["model"].get("inference")), **limits}


def _option_value(name: str, value: Any) -> Any:
    """Return an option of the module as plain values; None for a class that the module builds for None."""
    plain, built = plain_value(value), BUILT_FOR_NONE.get(name)
    return None if built is not None and plain == {"class_path": shortest_path(built)} else plain


def _trainer_options(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the options of the Trainer that are given and do not equal what the Trainer uses without them."""
    values = {**options, **_limits_in_steps(options)}
    if values.get("gradient_clip_val") is not None:
        values["gradient_clip_val"] = float(values["gradient_clip_val"])
    if values.get("precision") is not None:
        values["precision"] = PRECISIONS.get(str(values["precision"]), values["precision"])
    # Compared as text: a limit of 1 is one batch, and a limit of 1.0 is the whole epoch.
    given = {name: value for name, value in values.items() if str(value) != str(USED_FOR_NONE.get(name))}
    return select_non_defaults(given, names, defaults_of(L.Trainer))


def _network(model: Mapping[str, Any], paths: tuple[str, ...], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the values of the network. Files and folders of weights are represented by their digests."""
    then = earlier["parts"]["network"]["values"] if earlier else {}
    network = without_defaults(model["network"])
    arguments = network.get("init_args", {})
    for name in arguments.keys() & set(paths):
        arguments[name] = _content_digest(arguments[name], then.get("init_args", {}).get(name))
    if model.get("weights") is None:
        return network
    weights = _content_digest(model["weights"], then.get("weights"))
    return {**network, "weights": weights, "new_classifier": model.get("new_classifier", False)}


def _content_digest(path: str, earlier: str | None) -> str:
    """Return the digest of a file, or of the files in a folder, without hidden files.

    If the path does not exist, return the digest of the earlier run: a run that continues does not need its initial weights.
    """
    if Path(path).is_dir():
        files = {each.relative_to(path): each for each in Path(path).rglob("*") if each.is_file()}
        shown = {name: each for name, each in files.items() if not any(part.startswith(".") for part in name.parts)}
        return digest({name.as_posix(): file_digest(each) for name, each in shown.items()})
    if Path(path).is_file():
        return file_digest(path)
    return path if earlier is None else earlier


def _limits_in_steps(trainer: Mapping[str, Any]) -> dict[str, int]:
    """Convert limits of an epoch from batches to optimizer steps, which do not depend on gradient accumulation."""
    limits = {name: trainer.get(name) for name in ("limit_train_batches", "overfit_batches")}
    accumulated = trainer.get("accumulate_grad_batches", 1)
    return {name: limit // accumulated for name, limit in limits.items() if isinstance(limit, int)}


def _callbacks(trainer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    callbacks = trainer.get("callbacks") or []
    return callbacks if isinstance(callbacks, list) else [callbacks]


def _only_watches(class_path: str) -> bool:
    return class_name(class_path) in WATCHING or getattr(import_object(class_path), "only_watches", False)


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, values
