"""The scale of what edits are scored by: exact scores, or losses on texts."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from hiplora.figures.style import percent


class Scale(NamedTuple):
    """How scores are read and written.

    Attributes:
        kept: column of what is kept of the base.
        task: column of the score on the task.
        better: 1 where higher is better, -1 where lower is.
        kept_title: of its axis.
        task_title: of its axis.
        damage_title: of the axis of what is lost per unit of energy.
        tick: format of ticks.
        hover: format of a value.
        words: a value in a sentence.
        source: a sentence on how it was scored.
    """

    kept: str
    task: str
    better: int
    kept_title: str
    task_title: str
    damage_title: str
    tick: str
    hover: str
    words: Callable[[float], str]
    source: str

    @property
    def control(self) -> str:
        """Column of what the control keeps."""
        return f"control_{self.kept}"

    @property
    def panels(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Columns of both scores, each with the title of its axis."""
        return (self.kept, self.kept_title), (self.task, self.task_title)


def nats(value: float) -> str:
    """Return a loss in words, to a thousandth: differences between edits are small."""
    return f"{value:.3f}\N{NO-BREAK SPACE}nats"


def scale_of(table: pd.DataFrame) -> Scale:
    """Return the scale of a table of edits, told by its columns.

    Args:
        table: of edits of one update.
    """
    if "kept_loss" not in table:
        return Scale(
            "retention",
            "task_score",
            1,
            "Base skills kept",
            "Task score",
            "Base skills lost per unit of energy",
            ".1~%",
            ".1%",
            percent,
            "Exact scores on held-out examples.",
        )
    return Scale(
        "kept_loss",
        "task_loss",
        -1,
        "Loss on what is kept (nats per token)",
        "Loss on the task (nats per token)",
        "Rise of the loss per unit of energy (nats per token)",
        "~r",
        ".4f",
        nats,
        f"Mean loss of the next token, on the task ({table['task_text'].iloc[0]}) and on what is kept "
        f"({table['kept_text'].iloc[0]}).",
    )
