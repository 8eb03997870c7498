"""The description at the top of ``cpg --help``."""

from typing import Any

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.losses import SegmentationCriterion
from cpg_lightning.networks import SegmentationNetwork
from cpg_lightning.parsing import subclasses


def describe() -> str:
    """Return the description at the top of ``cpg --help``."""
    families: dict[str, type[Any]] = {
        "data": SegmentationDataModule,
        "networks": SegmentationNetwork,
        "criteria": SegmentationCriterion,
    }
    names = {title: sorted(known.__name__ for known in subclasses(family)) for title, family in families.items()}
    known = " ".join(f"{title}: {', '.join(classes)}." for title, classes in names.items())
    return (
        "Trains and evaluates segmentation networks with boundary-aware losses. These classes are given by name, and other "
        f"classes by class path: {known} Inspect a dataset: cpg check-data --help. Train many runs: cpg study --help. Compare "
        "runs: cpg report --help. First run: cpg fit --config experiments/quickstart.yaml. If there is no folder "
        "experiments/, cpg init writes it"
    )
