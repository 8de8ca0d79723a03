"""The layer in view: chosen by a click on a map of layers x modules or in a list, and kept from page to page."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import streamlit as st

from hiplora.measures import split_expert

_MODULE = "module"


def layer_in_view(modules: Sequence[str], first: str, label: str) -> str:
    """Draw the list of modules, and return the chosen one.

    Args:
        modules: names.
        first: the one in view before any choice.
        label: of the list.
    """
    chosen: str = st.selectbox(
        label, modules, index=modules.index(first), key=_MODULE, bind="query-params", persist_state="session"
    )
    return chosen


def click_on(chart: str, strongest: Mapping[str, str]) -> Callable[[], None]:
    """Return a callback that keeps the module of a clicked cell: a redrawn chart forgets its selection.

    Args:
        chart: key of the map.
        strongest: `{parameter: the expert in view after a click on the cell of all its experts}`.
    """

    def remember() -> None:
        points = st.session_state[chart].selection.points
        if points:
            clicked = points[0]["customdata"][0]
            st.session_state[_MODULE] = strongest.get(clicked, clicked)

    return remember


def strongest_experts(table: pd.DataFrame, column: str) -> dict[str, str]:
    """Return `{parameter: its expert with the highest value in a column}`; empty without experts.

    Args:
        table: the layer table, or that of a difference.
        column: to choose by.
    """
    rows = table[table["expert"].notna()].sort_values(column, na_position="first")
    return {split_expert(module)[0]: module for module in rows["module"]}
