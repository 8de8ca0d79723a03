"""Names from anyone's files, made safe for a terminal and for a spreadsheet, and numbers with digits enough."""

import math
from typing import TYPE_CHECKING

NONE = "–"
"""Stands where there is no number."""

if TYPE_CHECKING:
    import pandas as pd

# A cell that starts with one of these is a formula; the wide forms are read as the narrow ones.
_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")


def printable(text: str) -> str:
    r"""Return text with characters escaped that a terminal obeys or does not show.

    >>> printable("\x1b[31mred")
    '\\x1b[31mred'
    """
    return "".join(
        char if char.isprintable() or char == "\N{NO-BREAK SPACE}" else char.encode("unicode_escape").decode()
        for char in text
    )


def apart(*values: float) -> list[str]:
    """Return numbers with the same decimals, as few as keep different numbers different, but two below 10.

    >>> apart(1.041, 0.96, 1.04)
    ['1.041', '0.960', '1.040']
    """
    numbers = [value for value in values if math.isfinite(value)]
    largest = max(map(abs, numbers), default=0.0)
    shown: list[str] = []
    for decimals in range(2 if largest < 10 else 1 if largest < 100 else 0, 7):
        shown = [NONE if math.isnan(value) else f"{value:.{decimals}f}" for value in values]
        if len({f"{value:.{decimals}f}" for value in numbers}) == len(set(numbers)):
            break
    return shown


def for_spreadsheet(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table whose text is printable, with `'` before text that a spreadsheet would take for a formula."""
    text = table.select_dtypes(["object", "string", "category"])
    return table.assign(**{str(name): column.astype("object").map(_cell) for name, column in text.items()})


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA) else "") + printable(value)
