"""Semantic segmentation networks of Hugging Face's transformers."""

import json
import warnings
from pathlib import Path
from typing import Any

from cpg_lightning.networks.adapter import Adapter, freeze_unused, optional

Colour = tuple[float, float, float]


class HuggingFace(Adapter):
    """Any ``AutoModelForSemanticSegmentation``: SegFormer, UPerNet, BEiT, DPT and others.

    Args:
        num_classes: Number of classes C.
        model_type: Which network to build with random weights, by the name that transformers' configurations have.
        options: Further arguments of its configuration, by name.
        folder: A local folder as written by ``save_pretrained``, to take configuration, weights and normalisation from
            instead; what it has no weights for, such as the last layer for another number of classes, starts anew, with
            a warning that names it. A checkpoint needs the folder again, for the configuration.
        size_divisor: What height and width of its input are padded to multiples of, in pixels.

    Its auxiliary head, where it has one, is left out, and parameters that reach no logits are not trained.

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
                config.use_auxiliary_head = False  # its logits would enter a loss of the library's own alone
                network = auto.from_config(config)
            except ValueError as error:
                raise ValueError(f"transformers could not build {model_type!r} for segmentation: {error}") from error
        else:
            if options:
                raise ValueError("expected options or a folder, which has its own, got both")
            if not (Path(folder) / "config.json").is_file():
                raise FileNotFoundError(f"expected a folder of save_pretrained with a config.json, got {folder}")
            network, found = auto.from_pretrained(
                folder,
                num_labels=num_classes,
                use_auxiliary_head=False,
                ignore_mismatched_sizes=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            anew = sorted({*found["missing_keys"], *(entry[0] for entry in found["mismatched_keys"])})
            if anew:
                warnings.warn(
                    f"{folder} has no weights of this shape for {', '.join(anew)}: they start anew", stacklevel=2
                )
            mean, std = _normalisation(Path(folder) / "preprocessor_config.json")
        super().__init__(num_classes, network, size_divisor, mean=mean, std=std)
        freeze_unused(self)


def _normalisation(file: Path) -> tuple[Colour, Colour]:
    """Mean and standard deviation of the images that a network was trained with."""
    facts = json.loads(file.read_text()) if file.is_file() else {}
    if facts.get("do_flip_channel_order"):
        raise ValueError(f"expected a network of RGB images, got one of BGR: do_flip_channel_order in {file}")
    if facts.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return tuple(facts.get("image_mean") or Adapter.mean), tuple(facts.get("image_std") or Adapter.std)
