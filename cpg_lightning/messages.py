"""Filters for messages of the libraries that tell a user of the command nothing."""

import logging
import warnings

# Warnings and notes that tell a user of the command nothing.
WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\)",
    r".*LightningCLI's args parameter is intended",
    r"The dirpath has changed from",
    r".*predict.*returned `?None",
    r"The number of training batches .* is smaller than the logging interval",
)
NOTES = ("💡 Tip", "TPU available", "GPU available: False", "`weights_only` was not set")
LOGGERS = ("utilities.rank_zero", "trainer.connectors.checkpoint_connector")


def quieten() -> None:
    """Leave out messages of the libraries that tell a user of the command nothing."""
    for pattern in WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    for name in LOGGERS:
        logging.getLogger(f"lightning.pytorch.{name}").addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOTES)
