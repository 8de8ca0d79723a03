"""A figure as a page shows it: its finding above, its formula and everything to take away below."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from hiplora.figures.style import TITLE_HEIGHT
from hiplora.measure_info import MeasureInfo
from hiplora.ui.data import Loaded
from hiplora.ui.text import plain

_CONFIG = {
    "displaylogo": False,
    "toImageButtonOptions": {"format": "svg"},
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}


def figure_card(
    figure: go.Figure,
    *,
    name: str,
    table: pd.DataFrame,
    measures: tuple[MeasureInfo, ...] = (),
    formula: str = "",
    python: str,
    **chart: Any,
) -> None:
    """Show a figure with its title as text that wraps, and what belongs to it a click away.

    Args:
        figure: titled; on the page the title is text beside it, in what is taken away it is part of it.
        name: file name of what is taken away, and key of the chart.
        table: what the figure shows.
        measures: whose formula, meaning and source to show.
        formula: more LaTeX, for what is no column of the layer table.
        python: the lines that make the figure anew.
        chart: passed on to `st.plotly_chart`.
    """
    title, top = figure.layout.title, figure.layout.margin.t
    st.markdown(f"#### {plain(title.text)}")
    st.caption(plain(title.subtitle.text))
    figure.update_layout(title=None, margin_t=top - TITLE_HEIGHT)
    st.plotly_chart(figure, key=name, config=_CONFIG, alt=title.text, **chart)
    with st.container(horizontal=True, gap="small"):
        if measures or formula:
            with st.popover("Formula", icon=":material/function:"):
                for info in measures:
                    st.markdown(f"**{info.title}**")
                    st.latex(info.formula)
                    st.caption(f"{info.meaning} Source: {info.source}.")
                if formula:
                    st.latex(formula)
        st.download_button(
            "CSV",
            lambda: table.to_csv(index=False),
            f"{name}.csv",
            "text/csv",
            icon=":material/table:",
            key=f"{name}-csv",
            on_click="ignore",
        )
        st.download_button(
            "HTML",
            lambda: go.Figure(figure).update_layout(title=title, margin_t=top).to_html(include_plotlyjs=True),
            f"{name}.html",
            "text/html",
            icon=":material/download:",
            key=f"{name}-html",
            on_click="ignore",
            help="The figure with its title, stand-alone. The camera above the figure saves it as SVG.",
        )
        with st.popover("Python", icon=":material/code:"):
            st.code(python, language="python")


def snippet(loaded: Loaded, figure: str, *, source: str = "analyze", module: str = "", **choices: object) -> str:
    """Return the three lines of Python that make a figure anew.

    Args:
        loaded: what is shown.
        figure: the call of a function of `hiplora.figures`, on `table`.
        source: the function that makes the table; `analyze` is given the session's budget.
        module: for tables of one module.
        choices: further arguments of the source.
    """
    paths = [str(adapter.home) for adapter in loaded.adapters]
    where = f", {module!r}" if module else ""
    if source == "analyze":
        choices = {"epsilon": loaded.session.epsilon, **choices}
    more = "".join(f", {name}={value!r}" for name, value in choices.items())
    return (
        f"from hiplora import {source}, figures{', measures' if 'measures.' in figure else ''}\n"
        f"table = {source}({loaded.session.base!r}, {paths!r}{where}, k={loaded.session.k}{more})\n"
        f"figures.{figure}.show()"
    )
