"""Training runs: methods at matched size, a folder per run, and the processes that train them. Does not import torch.

Names are imported on first use: the command line needs only the settings, without pandas or numpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiplora.training.config import RunConfig
    from hiplora.training.launch import Launcher
    from hiplora.training.methods import METHODS, Match, Method, match_parameters
    from hiplora.training.run import Checkpoint, Run, Status, list_runs
    from hiplora.training.tables import drift_history, layer_history, score_table, step_table

__all__ = [
    "METHODS",
    "Checkpoint",
    "Launcher",
    "Match",
    "Method",
    "Run",
    "RunConfig",
    "Status",
    "drift_history",
    "layer_history",
    "list_runs",
    "match_parameters",
    "score_table",
    "step_table",
]

_HOMES = {
    "config": ("RunConfig",),
    "launch": ("Launcher",),
    "methods": ("METHODS", "Match", "Method", "match_parameters"),
    "run": ("Checkpoint", "Run", "Status", "list_runs"),
    "tables": ("drift_history", "layer_history", "score_table", "step_table"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"hiplora.training.{home}"), name)
    raise AttributeError(f"module 'hiplora.training' has no attribute {name!r}")
