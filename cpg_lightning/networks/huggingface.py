"""Semantic segmentation networks of Hugging Face's transformers."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cpg_lightning.networks.adapter import Adapter, optional
from cpg_lightning.networks.base import check_num_classes

Colour = tuple[float, float, float]

# Options that follow from the number of classes, the network's type and this package.
DECIDED = ("num_labels", "id2label", "label2id", "model_type", "use_auxiliary_head")
# Entries of a configuration that describe its file and the library that wrote it.
ABOUT_THE_FILE = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "auto_map")


class HuggingFace(Adapter):
    """Any ``AutoModelForSemanticSegmentation``: SegFormer, UPerNet, BEiT, DPT and others.

    Args:
        num_classes: Number of classes C.
        model_type: Type of the network to build with random weights: ``model_type`` of transformers' configurations.
        options: Further arguments of the configuration, by name.
        folder: A local folder written by ``save_pretrained``. Configuration, weights and normalisation are then read
            from the folder. Layers without weights in the folder, such as the last layer for another number of classes,
            are initialised randomly, and a warning names them.
        size_divisor: Height and width of the input are padded to multiples of this number of pixels; by default the
            patch size in the configuration, or 1.

    An auxiliary head is removed, and parameters that do not contribute to the logits are frozen.

    Raises:
        ImportError: If transformers is not installed.
        FileNotFoundError: If the folder has no configuration.
        ValueError: If there are fewer than 2 classes, if transformers has no such segmentation network, or for options
            that this package sets, that name a download, or that are combined with a folder.

    Example:
        >>> import torch
        >>> network = HuggingFace(5, options={"depths": [1, 1, 1, 1]})  # doctest: +SKIP
        >>> network(torch.rand(1, 3, 65, 97))["out"].shape  # doctest: +SKIP
        torch.Size([1, 5, 17, 25])
    """

    paths = ("folder",)

    def __init__(
        self,
        num_classes: int,
        model_type: str = "segformer",
        options: dict[str, Any] | None = None,
        folder: str | None = None,
        size_divisor: int | None = None,
    ) -> None:
        check_num_classes(num_classes)
        transformers = optional("transformers", "transformers")
        mean, std = Adapter.mean, Adapter.std
        if folder is None:
            network = _built(transformers, num_classes, model_type, options or {})
        else:
            if options:
                raise ValueError("expected options or a folder, which has its own, got both")
            network = _loaded(transformers, num_classes, Path(folder))
            mean, std = _normalisation(Path(folder) / "preprocessor_config.json")
        patch = _fact(network.config, "patch_size")
        divisor = size_divisor or (patch if isinstance(patch, int) else 1)
        super().__init__(num_classes, network, divisor, mean=mean, std=std)

    def checkpoint_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """See :meth:`SegmentationNetwork.checkpoint_arguments`; options replace a folder."""
        if arguments.get("folder") is None:
            return arguments
        config: Any = self.network.config
        options = _architecture(json.loads(config.to_json_string()))
        return arguments | {"folder": None, "model_type": options.pop("model_type"), "options": options}

    def _likely_sizes(self) -> list[tuple[int, int]]:
        size = _fact(self.network.config, "image_size")
        return [(size, size)] if isinstance(size, int) else [tuple(size)] if size else []


def _built(transformers: Any, num_classes: int, model_type: str, options: dict[str, Any]) -> Any:
    """A network with random weights; nothing is downloaded."""
    _check_type(transformers, model_type)
    decided = sorted(set(DECIDED) & options.keys())
    if decided:
        raise ValueError(
            f"expected options without {', '.join(DECIDED)}, which num_classes, model_type and this package decide, got "
            f"{', '.join(decided)}; leave them out"
        )
    pretrained = sorted(_pretrained_options(options))
    if pretrained:
        raise ValueError(
            f"expected options that name no file and no download, got {', '.join(pretrained)}; describe a backbone by "
            "backbone_config, and give weights of a file or a folder by --model.weights or folder"
        )
    try:
        config = transformers.AutoConfig.for_model(model_type, num_labels=num_classes, **options)
        config.use_auxiliary_head = False  # only the library's own loss would use its logits
        return transformers.AutoModelForSemanticSegmentation.from_config(config)
    except Exception as error:  # the library's checks of options raise errors of many types
        reason = " ".join(str(error).split())
        raise ValueError(f"transformers could not build {model_type!r} for segmentation: {reason}") from error


def _loaded(transformers: Any, num_classes: int, folder: Path) -> Any:
    """The network of a folder; a warning names the weights that are initialised randomly."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"expected a folder of save_pretrained with a config.json, got {folder}")
    _check_type(transformers, json.loads((folder / "config.json").read_text()).get("model_type"))
    network, found = transformers.AutoModelForSemanticSegmentation.from_pretrained(
        folder,
        num_labels=num_classes,
        use_auxiliary_head=False,
        ignore_mismatched_sizes=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = sorted({*found["missing_keys"], *(entry[0] for entry in found["mismatched_keys"])})
    if missing:
        warnings.warn(
            f"{folder} has no weights of this shape for {', '.join(missing)}: they are initialised randomly",
            stacklevel=3,
        )
    return network


def _check_type(transformers: Any, model_type: str | None) -> None:
    known = sorted(config.model_type for config in transformers.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING)
    if model_type not in known:
        raise ValueError(
            f"transformers could not build {model_type!r} for segmentation: expected a model_type that gives logits of "
            f"classes, which are {', '.join(known)}; others, such as mask2former and eomt, give masks"
        )


def _fact(config: Any, name: str) -> Any:
    """A value of a configuration, or of its backbone's configuration."""
    value = getattr(config, name, None)
    return getattr(getattr(config, "backbone_config", None), name, None) if value is None else value


def _architecture(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without its entries about classes and files, at any depth."""
    left_out = {*DECIDED, *ABOUT_THE_FILE} - {"model_type"}
    kept = {name: value for name, value in config.items() if name not in left_out}
    return {name: _architecture(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _pretrained_options(options: dict[str, Any]) -> Iterator[str]:
    """Names of options that let transformers read a path or download from a hub, at any depth."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _pretrained_options(value)
        path = isinstance(value, str) and any(sign in value for sign in "/\\:")
        # timm has its names locally; other names are looked up in the hub.
        backbone = name == "backbone" and options.get("model_type") != "timm_backbone"
        if path or (value and (backbone or name == "use_pretrained_backbone")):
            yield name


def _normalisation(file: Path) -> tuple[Colour, Colour]:
    """Mean and standard deviation of the normalisation that a network was trained with."""
    facts = json.loads(file.read_text()) if file.is_file() else {}
    if facts.get("do_flip_channel_order"):
        raise ValueError(f"expected a network of RGB images, got one of BGR: do_flip_channel_order in {file}")
    if facts.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return tuple(facts.get("image_mean") or Adapter.mean), tuple(facts.get("image_std") or Adapter.std)
