"""Tables of words in a terminal, in a form that can be pasted where Markdown is read."""

from typing import TYPE_CHECKING

from hiplora.printable import printable

if TYPE_CHECKING:
    import pandas as pd

_TEXT = ("Adapter", "Method", "Module", "Measure", "Verdict")


def lines_of(table: "pd.DataFrame") -> list[str]:
    """Return the lines of a table of words, padded; numbers stand to the right.

    Args:
        table: of text.
    """
    cells = [[_cell(text) for text in column] for column in (list(table), *table.to_numpy().tolist())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = [name in _TEXT for name in table.columns]
    rule = [f"{'-' * (width - (not at))}{'' if at else ':'}" for width, at in zip(widths, left, strict=True)]
    rows = [
        [text.ljust(width) if at else text.rjust(width) for text, width, at in zip(row, widths, left, strict=True)]
        for row in cells
    ]
    return [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]


def _cell(text: object) -> str:
    """Return text that stays in its cell."""
    return printable(str(text)).replace("|", r"\|")
