"""The description of a measure, and of any other word that stands over a number."""

from dataclasses import dataclass, field
from typing import Literal

Scale = Literal["chance", "share", "log", "linear", "count", "budget", "signed"]


@dataclass(frozen=True)
class MeasureInfo:
    r"""The description of a measure.

    Attributes:
        column: its column in the layer table.
        name: in tables and figures.
        unit: of its numbers, empty when the name says it.
        formula: LaTeX.
        meaning: one sentence for those who do not read formulas.
        scale: `chance` (a ratio whose neutral value is 1), `share` (0 to 1), `log`, `linear` or `count` (from 0),
            `budget` (1 is the limit), `signed` (-1 to 1).
        source: the paper, or our choice.
        null: LaTeX of its mean for a random update of the same size and rank; empty where there is none.
    """

    column: str
    name: str
    unit: str
    formula: str
    meaning: str
    scale: Scale
    source: str
    null: str = field(default="", kw_only=True)

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class Term:
    """A word of the app that is not a measure.

    Attributes:
        name: as it stands on the screen.
        meaning: one sentence or two.
        column: of a table, whose header it explains; empty without.
        words: forms in which texts have it; None for the name alone.
    """

    name: str
    meaning: str
    column: str = ""
    words: tuple[str, ...] | None = None


OURS = "our choice"
PAPER = "HiP-LoRA (arXiv 2604.17751); the formula is our choice"
STANDARD = "standard"
