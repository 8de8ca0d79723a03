"""One visual language: fixed colours with fixed meanings, safe for the colour-blind, the same in light and dark."""

import math
from collections.abc import Sequence
from typing import Any

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
_ADAPTERS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#B5A900", "#A0522D")
METHOD_SYMBOLS = {
    "LoRA": "circle",
    "LoRA+": "triangle-up",
    "rsLoRA": "square",
    "PiSSA": "star",
    "DoRA": "cross",
    "HiP-LoRA": "diamond",
}
"""Where marks tell methods; any other method is an `x`."""
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
# Blue below chance, vermilion above: residual and principal, as everywhere.
DIVERGING = ((0.0, "#004B76"), (0.25, "#4A9CC9"), (0.5, "#F2F2F2"), (0.75, "#EE9A5E"), (1.0, "#A64800"))
SEQUENTIAL = "Cividis"
# Pixels above the plot for title, subtitle and legend, and about as many below for the axis.
TITLE_HEIGHT, _TOP, _BOTTOM = 52, 84, 48


def adapter_colors(column: pd.Series) -> dict[str, str]:
    """Return `{adapter: colour}`, by the order in which the adapters were chosen.

    Args:
        column: adapters, one a row. A categorical column knows the whole order, also of adapters that have no row.
    """
    return {name: _ADAPTERS[i % len(_ADAPTERS)] for i, name in enumerate(_in_order(column))}


def adapter_symbols(column: pd.Series) -> dict[str, str]:
    """Return `{adapter: marker symbol}`, so that colour is never alone in telling adapters apart."""
    return {name: SYMBOLS[i % len(SYMBOLS)] for i, name in enumerate(_in_order(column))}


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
        title: what is seen, computed.
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


def across(y: float, axes: tuple[str, str] = ("x", "y"), *, line: dict[str, Any]) -> dict[str, Any]:
    """Return the shape of a horizontal line through a whole panel.

    Args:
        y: its height.
        axes: of the panel, as traces name them.
        line: its look.
    """
    return {"type": "line", "xref": f"{axes[0]} domain", "x0": 0, "x1": 1, "yref": axes[1], "y0": y, "y1": y} | {
        "line": line
    }


def null_traces(
    x: np.ndarray | list[str],
    edges: tuple[np.ndarray | list[float], np.ndarray | list[float]],
    middle: np.ndarray | list[float],
    axes: tuple[str, str],
    *,
    hover: str | None = None,
) -> list[dict[str, Any]]:
    """Return what chance would give: a 95 % band and a dashed line, named in the legend of the first panel.

    Args:
        x: positions.
        edges: lower and upper end of the band.
        middle: of the line.
        axes: of the panel, as traces name them.
        hover: template for the line; without one it says nothing.
    """
    low, high = edges
    where = {"type": "scatter", "mode": "lines", "xaxis": axes[0], "yaxis": axes[1]}
    band = where | {
        "x": np.concatenate([x, x[::-1]]),
        "y": np.concatenate([np.asarray(high, np.float32), np.asarray(low, np.float32)[::-1]]),
        "fill": "toself",
        "fillcolor": "rgba(138,138,138,0.3)",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "name": "95 % band",
        "showlegend": False,
    }
    line = where | {
        "x": x,
        "y": np.asarray(middle, np.float32),
        "name": "by chance, 95 % band",
        "line": {"color": NULL, "dash": "dash", "width": 2},
        "hoverinfo": None if hover else "skip",
        "hovertemplate": hover,
        "showlegend": axes[0] == "x",
    }
    return [band, line]


def two_digits(value: float) -> str:
    """Return a number as words want it: two significant digits, no exponent where people would write none."""
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
    """Return a share as a percentage with two significant digits; what is but rounding as a bound."""
    if 0 < value < 1e-5:
        return "<0.001\N{NO-BREAK SPACE}%"
    return f"{two_digits(100 * value)}\N{NO-BREAK SPACE}%"


def percent_format(largest: float) -> str:
    """Return the tick format of an axis of shares that reaches up to `largest`: enough digits to tell ticks apart."""
    if not math.isfinite(largest) or largest <= 0:
        return ".0%"
    return f".{max(0, math.ceil(-math.log10(100 * largest)) + 1)}~%"


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two positive ones: powers of ten, with more between where few are there."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    span = math.log10(high / low)
    steps: tuple[float, ...] = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if span < 0.7 else (1, 2, 5) if span <= 3 else (1,)
    return [tick for power in decades for step in steps if low <= (tick := step * 10.0**power) <= high]


def log_axis(values: pd.Series) -> dict[str, object]:
    """Return settings of a logarithmic axis for positive values, labelled with round numbers."""
    shown = values[values > 0]
    if shown.empty:
        return {}
    ticks = log_ticks(float(shown.min()) / 2, float(shown.max()) * 2)
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def times_chance(value: float) -> str:
    """Return an enrichment in words."""
    if not math.isfinite(value):
        return "nothing that can be compared with chance"
    return f"{two_digits(value)}× its share by chance"


def row_of_max(table: pd.DataFrame, column: str) -> pd.Series | None:
    """Return the row where a column is largest; None where it is nowhere known."""
    values = table[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return None if np.isnan(values).all() else table.iloc[int(np.nanargmax(values))]


def layer_axis(layers: Sequence[int]) -> dict[str, object]:
    """Return axis settings for layer numbers: whole numbers only, no more ticks than fit."""
    count = len(set(layers))
    return {"title": "Layer", "dtick": max(1, math.ceil(count / 16)), "tick0": 0}
