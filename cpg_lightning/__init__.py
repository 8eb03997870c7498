"""Boundary-aware segmentation with the CPG loss, in PyTorch Lightning."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpg_lightning.losses import CPGLoss, CrossEntropyCPGLoss, cpg_loss

__version__ = version("cpg_lightning")
__all__ = ["CPGLoss", "CrossEntropyCPGLoss", "__version__", "cpg_loss"]


def __getattr__(name: str) -> Any:
    """Import the losses on first use, so that commands without torch start fast."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("cpg_lightning.losses"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
