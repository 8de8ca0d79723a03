"""The layer in view: chosen by a click on a map of layers x modules or in a list, and kept from page to page."""

from collections.abc import Callable, Sequence

import streamlit as st

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


def click_on(chart: str) -> Callable[[], None]:
    """Return a callback that keeps the module of a clicked cell: a redrawn chart forgets its selection.

    Args:
        chart: key of the map.
    """

    def remember() -> None:
        points = st.session_state[chart].selection.points
        if points:
            st.session_state[_MODULE] = points[0]["customdata"][0]

    return remember
