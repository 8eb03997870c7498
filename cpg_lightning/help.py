"""What ``cpg --help`` begins with."""

from typing import Any

from cpg_lightning.data import SegmentationDataModule
from cpg_lightning.losses import SegmentationCriterion
from cpg_lightning.networks import SegmentationNetwork
from cpg_lightning.parsing import subclasses


def describe() -> str:
    """What ``cpg --help`` begins with."""
    families: dict[str, type[Any]] = {
        "data": SegmentationDataModule,
        "networks": SegmentationNetwork,
        "criteria": SegmentationCriterion,
    }
    names = {title: sorted(known.__name__ for known in subclasses(family)) for title, family in families.items()}
    known = " ".join(f"{title}: {', '.join(classes)}." for title, classes in names.items())
    return (
        "Trains and evaluates segmentation networks with boundary-aware losses. Known by their short names, and others by "
        f"their class path: {known} What is in a dataset, and wrong with it: cpg check-data --help. Many runs, and what follows "
        "from them: cpg study --help, cpg report --help. First run: cpg fit "
        "--config experiments/quickstart.yaml; where there is no experiments/, cpg init writes it"
    )
