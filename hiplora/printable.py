"""Names from anyone's files, made safe for a terminal and for a spreadsheet."""

from typing import TYPE_CHECKING

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


def for_spreadsheet(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table whose text is printable, with `'` before text that a spreadsheet would take for a formula."""
    text = table.select_dtypes(["object", "string", "category"])
    return table.assign(**{str(name): column.astype("object").map(_cell) for name, column in text.items()})


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA) else "") + printable(value)
