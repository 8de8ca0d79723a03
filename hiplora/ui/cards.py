"""A figure on a page: its finding above, and one menu with its formula, its exports and its program."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from hiplora.figures.style import TITLE_HEIGHT, for_presentation
from hiplora.measure_info import MeasureInfo, Term
from hiplora.measures import words_in
from hiplora.printable import for_spreadsheet
from hiplora.study.python_code import code
from hiplora.ui import shell
from hiplora.ui.text import plain

_CONFIG = {
    "displaylogo": False,
    "toImageButtonOptions": {"format": "svg"},
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}


def meanings(words: Iterable[Term | MeasureInfo]) -> str:
    """Return the definitions of some words as Markdown, for a hover."""
    return "\n\n".join(f"**{each.name}:** {plain(each.meaning)}" for each in words)


def figure_card(
    draw: Callable[..., go.Figure],
    table: "partial[pd.DataFrame]",
    *args: Any,
    name: str,
    measures: tuple[MeasureInfo, ...] = (),
    formula: str = "",
    compute: "Callable[[partial[pd.DataFrame]], pd.DataFrame]" = lambda call: call(),
    **chart: Any,
) -> None:
    """Show `draw(table(), *args)`: picture, CSV and Python all come from this one call.

    Of a figure that has nothing to draw, only its sentence is shown.

    Args:
        draw: a function of `hiplora.figures`; on the page its title is text beside the figure, in exports it is part of
            the figure.
        table: the call that makes the figure's table.
        args: further arguments of `draw`; calls among them are made too.
        name: file name of the exports, and key of the chart.
        measures: those whose formula, meaning and source to show.
        formula: more LaTeX, for anything that is not a column of the layer table.
        compute: makes the table from its call, such as through a cache.
        chart: passed on to `st.plotly_chart`.
    """
    rows = compute(table)
    figure = draw(rows, *(arg() if isinstance(arg, partial) else arg for arg in args))
    title, top = figure.layout.title, figure.layout.margin.t
    used = {each.name: each for each in (*measures, *words_in(f"{title.text} {title.subtitle.text}"))}
    with st.container(horizontal=True, wrap=False, gap="small"):
        st.markdown(f"#### {plain(title.text)}", help=meanings(used.values()) or None)
        menu = st.popover("More", icon=":material/more_horiz:", type="tertiary", key=f"{name}-menu")
    st.caption(plain(title.subtitle.text))
    drawn = bool(figure.data)
    if drawn:
        figure.update_layout(title=None, margin_t=top - TITLE_HEIGHT)
        shown = for_presentation(figure) if shell.presented() else figure
        st.plotly_chart(shown, key=name, config=_CONFIG, alt=title.text, **chart)
    with menu:
        _show_formulas(measures, formula, inputs="inputs" in rows)
        with st.container(horizontal=True, gap="small"):
            st.download_button(
                "CSV",
                lambda: for_spreadsheet(rows).to_csv(index=False),
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
                disabled=not drawn,
                help="The figure with its title, stand-alone. The camera above the figure saves it as SVG.",
            )
        st.code(code(draw, table, *args), language="python")


def _show_formulas(measures: tuple[MeasureInfo, ...], formula: str, *, inputs: bool) -> None:
    for info in measures:
        st.markdown(f"**{info.title}**")
        st.latex(info.formula)
        st.caption(f"{info.meaning} Source: {info.source}.")
    if formula:
        st.latex(formula)
    if inputs and (measures or formula):
        st.latex(r"W_0 \to W_0 K,\quad \Delta W \to \Delta W K,\quad K K^\top = \mathbb{E}[x x^\top]")
        st.caption(
            "In the geometry of the inputs: their second moment, over the tokens of the text. Where an edit is made, "
            "V_k is an orthonormal basis of K V'_k."
        )
