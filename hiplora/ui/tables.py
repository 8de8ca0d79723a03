"""A table on a page: every header explained, shares as percentages as in the figures, digits enough to compare."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import streamlit as st

from hiplora.measures import MEASURES, meaning_of
from hiplora.printable import for_spreadsheet

_PERCENT = {"task_score", "retention", "skill_score", "relative_norm", "parameter_difference", "pp_null"}
_PERCENT |= {column for column, info in MEASURES.items() if info.scale == "share"}


def show(table: pd.DataFrame, titles: Mapping[str, str], alt: str = "") -> None:
    """Show some columns of a table.

    Args:
        table: tidy.
        titles: `{column: header}`, in the order shown; `hiplora.measures.meaning_of` explains each column.
        alt: what the table holds, for those who do not see it.
    """
    rows = for_spreadsheet(table[list(titles)]).reset_index(drop=True)
    formats: dict[Any, Any] = {
        titles[column]: _format(rows[column], column) for column in titles if rows[column].dtype.kind in "iuf"
    }
    st.dataframe(
        rows.rename(columns=titles).style.format(formats),
        hide_index=True,
        # Whatever the style says, a missing value would be written as None.
        placeholder="–",
        column_config={title: st.column_config.Column(help=meaning_of(column)) for column, title in titles.items()},
        alt=alt or None,
    )


def _format(values: pd.Series, column: str) -> Callable[[float], str]:
    if column in _PERCENT:
        return lambda value: f"{100 * value:.3g}\N{NO-BREAK SPACE}%"
    if values.dropna().mod(1).eq(0).all():
        return lambda value: f"{value:,.0f}".replace(",", "\N{NO-BREAK SPACE}")
    return lambda value: f"{value:.3g}"
