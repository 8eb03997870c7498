"""What a run shows and writes: tables, pictures and predictions."""

from cpg_lightning.callbacks.costs import Costs
from cpg_lightning.callbacks.evaluation_report import EvaluationReport
from cpg_lightning.callbacks.metrics_file import MetricsFile
from cpg_lightning.callbacks.prediction_writer import PredictionWriter
from cpg_lightning.callbacks.progress_lines import ProgressLines

__all__ = ["Costs", "EvaluationReport", "MetricsFile", "PredictionWriter", "ProgressLines"]
