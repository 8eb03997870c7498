"""The output folder of predictions, and the images that are already predicted in it."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import lightning as L
from jsonargparse import Namespace

from cpg_lightning.callbacks import PredictionWriter
from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.data.paths import expanded
from cpg_lightning.data.predicted import PredictionRecord, file_digest, weights_digest
from cpg_lightning.module import SegmentationModule
from cpg_lightning.parsing import configured_classes


def check_output(subcommand: str | None, config: Namespace) -> None:
    """Set the folder of the predictions to the ``--output`` of ``predict``. Check the use of the options for folders.

    Raises:
        ValueError: If the subcommand does not support ``--output``, ``--overwrite`` or ``--run``, or if ``predict
            --output`` does not have exactly one PredictionWriter.
    """
    if config.overwrite and subcommand != "predict":
        raise ValueError(f"expected --overwrite with predict, got it with {subcommand}")
    if config.run is not None:  # arguments_of_run replaces it on the command line of an evaluation
        raise ValueError(
            f"expected --run on the command line of validate, test or predict, got it with {subcommand} or in a file; to "
            "continue a run, use fit --config FOLDER/config.yaml --output FOLDER"
        )
    if config.output is None:
        return
    if subcommand == "predict":
        callbacks = configured_classes(config.trainer.callbacks)
        writers = [each for each in callbacks if each.class_path.endswith(".PredictionWriter")]
        if len(writers) != 1:
            raise ValueError(
                f"expected one PredictionWriter among the callbacks for --output, got {len(writers)}; add it by "
                "--trainer.callbacks+ PredictionWriter"
            )
        writers[0].init_args.folder = str(expanded(config.output))
    elif subcommand != "fit":
        raise ValueError(f"expected --output with fit or predict, got it with {subcommand}")


def leave_out_predicted(
    config: Mapping[str, Any], trainer: L.Trainer, module: SegmentationModule, data: SegmentationDataModule
) -> None:
    """Skip the images that are already predicted in ``--output``."""
    (writer,) = (each for each in trainer.callbacks if isinstance(each, PredictionWriter))  # type: ignore[attr-defined]
    kinds = [*writer.kinds, *(["probabilities"] if module.predict_probabilities else [])]
    settings = prediction_settings(config, module, data, kinds)
    writer.record = data.predicted = PredictionRecord(writer.folder or "", settings, kinds, config["overwrite"])


def prediction_settings(
    config: Mapping[str, Any], module: SegmentationModule, data: SegmentationDataModule, kinds: list[str]
) -> str:
    """Return a digest of everything that determines a prediction, except the image."""
    path = config.get("ckpt_path")
    weights = weights_digest(module.network.state_dict()) if path is None else file_digest(path)
    model = {name: config["model"].get(name) for name in ("network", "inference")}
    classes = [data.classes.plain(), data.label_values]
    parts = [weights, model, module.image_size, classes, kinds, config["trainer"].get("precision")]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
