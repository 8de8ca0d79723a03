"""One visual language: fixed colors with fixed meanings, safe for the color-blind, the same in light and dark."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, NamedTuple, ParamSpec

import numpy as np
import pandas as pd
import plotly.graph_objects as go

# Okabe-Ito. Vermilion and blue belong to the channels; adapters take the others, in the order they were chosen.
PRINCIPAL = "#D55E00"
RESIDUAL = "#0072B2"
MIXED = ("#7F7F7F", "#B8B8B8")
NULL = "#8A8A8A"
BUDGET = "#8A8A8A"
BASE = "#8A8A8A"
OVERALL = "#8A63D2"
_ADAPTERS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#B5A900", "#A0522D")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
# Not plain dashes, which are those of chance.
_DASHES = ("solid", "dot", "dashdot", "longdash", "longdashdot", "2px,6px")
# The first methods to get a mark, always the same one; any other method gets one of the marks after theirs.
_METHODS = ("LoRA", "HiP-LoRA", "rsLoRA", "LoRA+", "DoRA", "PiSSA")
_MORE_SYMBOLS = ("x", "pentagon", "triangle-down", "hexagram", "bowtie", "hourglass")
# Ways to merge: Paul Tol's muted colors, those that both themes show, and a mark each. The plain sum is gray.
_WAYS = {
    "sum": ("#7F7F7F", "circle"),
    "core": ("#CC6677", "star"),
    "ties": ("#44AA99", "square"),
    "dare": ("#AA4499", "diamond"),
    "magnitude": ("#999933", "triangle-up"),
    "knots": ("#6A5ACD", "triangle-down"),
    "core-space": ("#2E8B57", "pentagon"),
    "tsv": ("#B8860B", "cross"),
    "iso-c": ("#4A9CC9", "hexagram"),
    "orthogonal": ("#A0522D", "x"),
}
# Blue below chance, vermilion above: residual and principal, as everywhere.
DIVERGING = ((0.0, "#004B76"), (0.25, "#4A9CC9"), (0.5, "#F2F2F2"), (0.75, "#EE9A5E"), (1.0, "#A64800"))
SEQUENTIAL = "Cividis"
# Pixels above the plot for title, subtitle and legend, and about as many below for the axis.
TITLE_HEIGHT, _TOP, _BOTTOM = 52, 84, 48
# Pixels of type: of axes on a desk, and of everything in a lecture hall; and lines of it around a plot.
_AXIS_TYPE, _PRESENTED, _LINES = 12, 18, 4
# Pixels for the title of a y axis and labels as wide as percentages of four digits.
LABEL_WIDTH = 72


P = ParamSpec("P")


def of_any_geometry(
    draw: Callable[Concatenate[pd.DataFrame, P], go.Figure],
) -> Callable[Concatenate[pd.DataFrame, P], go.Figure]:
    """Make a figure say below its title when its table is of the geometry of the inputs.

    Args:
        draw: from a table with a column `inputs` in that geometry.
    """

    @wraps(draw)
    def drawn(table: pd.DataFrame, *args: P.args, **choices: P.kwargs) -> go.Figure:
        figure = draw(table, *args, **choices)
        if "inputs" in table and len(table):
            figure.layout.title.subtitle.text += (
                f" Through the base's inputs on {table['inputs'].iloc[0]}: a norm is a change of the output."
            )
        return figure

    return drawn


def blocks_of(table: pd.DataFrame) -> str:
    """Return a sentence on the geometry that tells the blocks of an edit; empty in that of the weights.

    Args:
        table: of edits, with a column `inputs` in the geometry of the inputs.
    """
    return f" Blocks as the base's inputs tell them, on {table['inputs'].iloc[0]}." if "inputs" in table else ""


class Channel(NamedTuple):
    """A part of the update as every figure shows it.

    Attributes:
        name: `principal`, `mixed` or `residual`.
        noun: what the part is.
        norm: its Frobenius norm as a formula.
        color: of its lines and bars.
        symbol: of its marks.
        dash: of its lines.
    """

    name: str
    noun: str
    norm: str
    color: str
    symbol: str
    dash: str


CHANNELS = (
    Channel("principal", "channel", "‖PP‖", PRINCIPAL, "circle", "solid"),
    Channel("mixed", "blocks", "‖PR + RP‖", MIXED[0], "x", "dot"),
    Channel("residual", "channel", "‖RR‖", RESIDUAL, "square", "solid"),
)


def adapter_colors(column: pd.Series) -> dict[str, str]:
    """Return `{adapter: color}`, by the order in which the adapters were chosen.

    Args:
        column: adapters, one a row. A categorical column has the whole order, including adapters without a row.
    """
    return {name: _ADAPTERS[i % len(_ADAPTERS)] for i, name in enumerate(_in_order(column))}


def adapter_symbols(column: pd.Series) -> dict[str, str]:
    """Return `{adapter: marker symbol}`, so that adapters never differ by color alone.

    Args:
        column: adapters, as in `adapter_colors`.
    """
    return {name: _SYMBOLS[i % len(_SYMBOLS)] for i, name in enumerate(_in_order(column))}


def adapter_dashes(column: pd.Series) -> dict[str, str]:
    """Return `{adapter: dash}` for lines without markers.

    Args:
        column: adapters, as in `adapter_colors`.
    """
    return {name: _DASHES[i % len(_DASHES)] for i, name in enumerate(_in_order(column))}


def method_symbols(column: pd.Series) -> dict[str, str]:
    """Return `{method: marker symbol}`: well-known methods keep theirs, the others follow in alphabetical order.

    Args:
        column: methods by their titles, one a row.
    """
    symbols = _SYMBOLS + _MORE_SYMBOLS
    methods = [*_METHODS, *sorted(set(column) - set(_METHODS))]
    return {name: symbols[i % len(symbols)] for i, name in enumerate(methods)}


def way_looks(column: pd.Series) -> dict[str, tuple[str, str]]:
    """Return `{way to merge: (color, marker symbol)}`: each way keeps its own in every figure.

    Args:
        column: keys of ways, one a row.
    """
    return {str(key): _WAYS.get(str(key), (NULL, "bowtie")) for key in dict.fromkeys(column)}


def by_adapter(table: pd.DataFrame, column: str = "adapter") -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each adapter, in the order in which adapters appear in the table.

    Args:
        table: one or more rows per adapter.
        column: the one with the adapters.
    """
    return [(name, table[table[column] == name]) for name in dict.fromkeys(table[column])]


def _in_order(column: pd.Series) -> list[str]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.categories.tolist()
    return list(dict.fromkeys(column))


def finish(
    figure: go.Figure, title: str, subtitle: str, height: int, *, panels: bool = False, left: int | None = None
) -> go.Figure:
    """Give a figure its finding as title, its measure as subtitle, and the common layout.

    Args:
        figure: drawn.
        title: the finding, computed.
        subtitle: the measure.
        height: pixels.
        panels: whether panels have titles of their own, which the legend must clear.
        left: pixels for the labels and the title of the y axis, where these are known; None lets the browser measure
            them, which takes it about as long as the rest of the drawing.
    """
    gap = 26 if panels else 4
    plot = height - _TOP - _BOTTOM
    figure.update_layout(
        title={"text": title, "subtitle": {"text": subtitle}, "x": 0, "xref": "paper"},
        height=height,
        margin={"l": 8 if left is None else left, "r": 8, "t": _TOP + gap, "b": 8 if left is None else _BOTTOM},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1 + gap / plot, "xanchor": "left", "x": 0},
        hoverlabel={"align": "left"},
        separators=". ",
    )
    if left is None:
        figure.update_xaxes(automargin=True)
        figure.update_yaxes(automargin=True)
    return figure


def for_presentation(figure: go.Figure) -> go.Figure:
    """Return a copy of a figure with type of 18 pixels, and taller by what that takes.

    Args:
        figure: from `finish`.
    """
    size = _PRESENTED
    larger = go.Figure(figure)
    larger.update_layout(font_size=size, legend_font_size=size, hoverlabel_font_size=size)
    larger.update_layout(height=figure.layout.height + 2 * (size - _AXIS_TYPE) * _LINES)
    for update in (larger.update_xaxes, larger.update_yaxes):
        update(tickfont_size=size, title_font_size=size, automargin=True)
    larger.update_coloraxes(colorbar_tickfont_size=size, colorbar_title_font_size=size)
    return larger.update_annotations(font_size=size)


def two_digits(value: float) -> str:
    """Return a number for a sentence: two significant digits, an exponent only where people would write one."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        digits = max(1 - math.floor(math.log10(abs(value))), 0)
        rounded = round(value, digits)
        return f"{rounded:.{digits}f}" if digits else f"{rounded:.0f}"
    return f"{value:.1e}"


def percent(value: float) -> str:
    """Return a share as a percentage with two significant digits; one at rounding level as a bound."""
    if 0 < value < 1e-5:
        return "<0.001\N{NO-BREAK SPACE}%"
    return f"{two_digits(100 * value)}\N{NO-BREAK SPACE}%"


def percent_format(largest: float) -> str:
    """Return the tick format of an axis of shares up to `largest`: enough digits to tell ticks apart."""
    if not math.isfinite(largest) or largest <= 0:
        return ".0%"
    return f".{max(0, math.ceil(-math.log10(100 * largest)) + 1)}~%"


def times_chance(value: float) -> str:
    """Return an enrichment in words."""
    if not math.isfinite(value):
        return "nothing that can be compared with chance"
    return f"{two_digits(value)} times as much"


def row_of_max(table: pd.DataFrame, column: str) -> pd.Series | None:
    """Return the row where a column is largest; None if all values are missing."""
    values = table[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return None if np.isnan(values).all() else table.iloc[int(np.nanargmax(values))]
