"""Training runs: methods at matched size, a folder per run, and the processes that do them. Imports no torch."""

from hiplora.training.config import RunConfig
from hiplora.training.history import layer_history, score_table, step_table
from hiplora.training.launch import Launcher
from hiplora.training.methods import METHODS, Match, Method, match_parameters
from hiplora.training.run import Checkpoint, Run, Status, list_runs

__all__ = [
    "METHODS",
    "Checkpoint",
    "Launcher",
    "Match",
    "Method",
    "Run",
    "RunConfig",
    "Status",
    "layer_history",
    "list_runs",
    "match_parameters",
    "score_table",
    "step_table",
]
