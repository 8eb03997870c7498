"""Callbacks: reports, predictions, metrics, costs, checkpoints, progress, signals and checks for finite values."""

from cpg_lightning.callbacks.atomic_checkpoints import AtomicCheckpoints
from cpg_lightning.callbacks.best_checkpoint import BestCheckpoint
from cpg_lightning.callbacks.costs import Costs
from cpg_lightning.callbacks.evaluation_report import EvaluationReport
from cpg_lightning.callbacks.finite import TerminateOnNonFinite
from cpg_lightning.callbacks.metrics_file import MetricsFile
from cpg_lightning.callbacks.prediction_writer import PredictionWriter
from cpg_lightning.callbacks.progress_lines import ProgressLines
from cpg_lightning.callbacks.stopping import StopOnSignal

__all__ = [
    "AtomicCheckpoints",
    "BestCheckpoint",
    "Costs",
    "EvaluationReport",
    "MetricsFile",
    "PredictionWriter",
    "ProgressLines",
    "StopOnSignal",
    "TerminateOnNonFinite",
]
