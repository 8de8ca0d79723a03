"""What an update causes: its edits, each scored beside its control, exactly or by loss on texts."""

from hiplora.effects.ablation import AS_TRAINED, edits, removals
from hiplora.effects.indicators import indicator_table
from hiplora.effects.losses import TextLosses
from hiplora.effects.repair import BLOCKS, SCALED, count, grid
from hiplora.effects.scores import KeptScores, Outcome, Scorer, Scores, TaskScores
from hiplora.effects.task_losses import TaskLosses

__all__ = [
    "AS_TRAINED",
    "BLOCKS",
    "SCALED",
    "KeptScores",
    "Outcome",
    "Scorer",
    "Scores",
    "TaskLosses",
    "TaskScores",
    "TextLosses",
    "count",
    "edits",
    "grid",
    "indicator_table",
    "removals",
]
