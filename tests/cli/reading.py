"""What a command printed, read back."""

import re
from itertools import groupby

import pandas as pd


def tables(lines):
    """Return the Markdown tables among printed lines, as text."""
    found = []
    for is_row, group in groupby(lines, lambda line: line.startswith("| ")):
        if is_row:
            header, _, *rows = (
                [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in group
            )
            found.append(pd.DataFrame(rows, columns=header))
    return found
