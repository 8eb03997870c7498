"""Semantic segmentation networks of Hugging Face's transformers."""

import json
from pathlib import Path
from typing import Any

from cpg_lightning.networks.adapter import Adapter, optional


class HuggingFace(Adapter):
    """Any ``AutoModelForSemanticSegmentation``: SegFormer, UPerNet, BEiT, DPT and others.

    Args:
        num_classes: Number of classes C.
        model_type: Which network to build with random weights, by the name that transformers' configurations have.
        options: Further arguments of its configuration, by name.
        folder: A local folder as written by ``save_pretrained``, to take configuration and weights from instead; for another
            number of classes than its own, the last layer starts anew. A checkpoint needs it again, for the configuration.
        size_divisor: What height and width of its input are padded to multiples of, in pixels.

    Raises:
        ImportError: If transformers is not installed.
        FileNotFoundError: If the folder is none of a network.
        ValueError: If transformers has no such segmentation network, or for options beside a folder.

    Example:
        >>> import torch
        >>> network = HuggingFace(5, options={"depths": [1, 1, 1, 1]})  # doctest: +SKIP
        >>> network(torch.rand(1, 3, 65, 97))["out"].shape  # doctest: +SKIP
        torch.Size([1, 5, 17, 25])
    """

    def __init__(
        self,
        num_classes: int,
        model_type: str = "segformer",
        options: dict[str, Any] | None = None,
        folder: str | None = None,
        size_divisor: int = 1,
    ) -> None:
        transformers = optional("transformers", "transformers")
        auto = transformers.AutoModelForSemanticSegmentation
        mean, std = Adapter.mean, Adapter.std
        if folder is None:
            try:
                config = transformers.AutoConfig.for_model(model_type, num_labels=num_classes, **(options or {}))
                network = auto.from_config(config)
            except ValueError as error:
                raise ValueError(f"transformers has no segmentation network {model_type!r}: {error}") from error
        else:
            if options:
                raise ValueError("expected options or a folder, which has its own, got both")
            if not (Path(folder) / "config.json").is_file():
                raise FileNotFoundError(f"expected a folder of save_pretrained with a config.json, got {folder}")
            network = auto.from_pretrained(
                folder, num_labels=num_classes, ignore_mismatched_sizes=True, local_files_only=True
            )
            processor = Path(folder) / "preprocessor_config.json"
            if processor.is_file():
                facts = json.loads(processor.read_text())
                mean, std = tuple(facts.get("image_mean", mean)), tuple(facts.get("image_std", std))
        super().__init__(num_classes, network, size_divisor, mean=mean, std=std)
