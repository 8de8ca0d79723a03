"""One layer, one adapter or several: where along the weight's singular directions the update lies."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.style import (
    BASE,
    NULL,
    PRINCIPAL,
    across,
    adapter_colors,
    finish,
    log_axis,
    null_traces,
    percent,
    percent_format,
    row_of_max,
    two_digits,
)

_DIRECTION = "Singular direction of the weight, leading first"
# Pixels for the widest labels here, percentages of four digits, and the title.
_LEFT = 72
PANELS = (("x", "y"), ("x2", "y2"))
SIDES = {"left": "left: what it writes", "right": "right: what it reads"}


def singular_values(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the singular values of the weight, with the principal ones marked.

    Args:
        table: direction table(s) of one layer.
        k: principal rank.
    """
    one = table.drop_duplicates("direction")
    line = {
        "type": "scatter",
        "x": _f32(one["direction"]),
        "y": _f32(one["sigma"]),
        "mode": "lines",
        "line": {"color": BASE, "width": 2},
        "name": "σ",
        "hovertemplate": "direction %{x}<br>σ = %{y:.4g}<extra></extra>",
        "showlegend": False,
    }
    layout = {
        "xaxis": {"title": _DIRECTION, **direction_axis(len(one))},
        "yaxis": {"title": "Singular value σ of the weight", "rangemode": "tozero"},
        "shapes": principal_bands(k),
    }
    share = float(one.loc[one["direction"] <= k, "sigma_share"].sum())
    return finish(
        go.Figure([line], layout),
        f"The top {k} directions hold {percent(share)} of the weight's energy.",
        "Leading singular values of the frozen weight; the share is of its whole energy.",
        340,
        left=_LEFT,
    )


def direction_energy(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the share of the update's energy on each left and right singular direction, with its mean by chance.

    Args:
        table: direction table(s) of one layer, one block of rows per adapter.
        k: principal rank.
    """
    lines = _both_sides(table, "{side}", "direction %{x}<br>%{y:.3%} of the energy")
    # One direction's share jumps about; what is to be seen is the level, octave by octave.
    levels = []
    for line in lines:
        x, y = octave_means(line["x"], line["y"])
        levels.append(
            line
            | {
                "x": x,
                "y": y,
                "line": {"color": line["line"]["color"], "width": 3, "shape": "hv"},
                "name": f"{line['name']}, octave means",
                "hovertemplate": f"from direction %{{x}}<br>%{{y:.3%}} on average<extra>{line['name']}</extra>",
            }
        )
        line |= {"line": {"color": line["line"]["color"], "width": 1}, "opacity": 0.35, "showlegend": False}
    chance = [
        across(float(table[f"{side}_null"].iloc[0]), axes, line={"color": NULL, "dash": "dash", "width": 2})
        for side, axes in zip(SIDES, PANELS, strict=True)
    ]
    largest = table[["left", "right"]].max().max()
    layout = _two_panels(
        {"title": "Singular direction", **direction_axis(table["direction"].max())},
        {"tickformat": percent_format(largest), "rangemode": "tozero"},
        "Share of the update's energy",
        [*chance, *principal_bands(k, PANELS)],
    )
    head = table[table["direction"] <= k].groupby("adapter", sort=False)[["left", "right"]].sum().mean(axis=1)
    words = ", ".join(f"{name} {percent(value)}" for name, value in head.items())
    return finish(
        go.Figure([*lines, *levels], layout),
        f"On the top {k} directions: {words}.",
        "Energy of the update on each singular direction of the weight (mean of both sides in the title). Bold: mean "
        "of the octaves 1, 2, 3–4, 5–8, …; dashed: one direction's share by chance.",
        380,
        panels=True,
        left=_LEFT,
    )


def cumulative_energy(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the cumulative share of energy against the isotropic null with its 95 % band, left and right.

    Args:
        table: direction table(s) of one layer.
        k: principal rank.
    """
    lines = _both_sides(table, "{side}_cumulative", "top %{x}<br>%{y:.2%} of the energy")
    widest = table.groupby("adapter", sort=False)["left_null_high"].sum().idxmax()
    null = table[table["adapter"] == widest]
    for side, axes in zip(SIDES, PANELS, strict=True):
        edges = (_f32(null[f"{side}_null_low"]), _f32(null[f"{side}_null_high"]))
        hover = "top %{x}<br>%{y:.2%} by chance<extra></extra>"
        lines += null_traces(_f32(null["direction"]), edges, _f32(null[f"{side}_null"]), axes, hover=hover)
    layout = _two_panels(
        {"title": "Leading directions counted", **direction_axis(table["direction"].max())},
        {"range": [0, 1.02], "tickformat": ".0%"},
        "Cumulative share of energy",
        principal_bands(k, PANELS),
    )
    at_k = table[table["direction"] == k].set_index("adapter")
    above = (at_k["left_cumulative"] > at_k["left_null_high"]) & (at_k["right_cumulative"] > at_k["right_null_high"])
    below = (at_k["left_cumulative"] < at_k["left_null_low"]) & (at_k["right_cumulative"] < at_k["right_null_low"])
    words = [
        f"{', '.join(at_k.index[chosen])} {'is' if chosen.sum() == 1 else 'are'} {side} chance"
        for chosen, side in ((above, "above"), (below, "below"))
        if chosen.any()
    ]
    return finish(
        go.Figure(lines, layout),
        f"On both sides, up to direction {k}: {'; '.join(words) or 'no adapter is above or below chance'}.",
        "Cumulative energy against an isotropic update with the same singular values. The longer side of a weight has "
        "more dimensions than the weight has directions, so its curve ends below 100 %.",
        380,
        panels=True,
        left=_LEFT,
    )


def gains(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the first-order relative change of each principal singular value.

    Args:
        table: direction table(s) of one layer.
        k: principal rank; only these directions are drawn.
    """
    head = table[table["direction"] <= k]
    colors = adapter_colors(table["adapter"])
    bars = [
        {
            "type": "bar",
            "x": _f32(part["direction"]),
            "y": _f32(part["gain"]),
            "marker": {"color": colors[adapter]},
            "name": adapter,
            "customdata": _f32(part["core_change"]),
            "hovertemplate": f"direction %{{x}}<br>gain %{{y:+.3%}}<br>change %{{customdata:+.3g}}"
            f"<extra>{adapter}</extra>",
        }
        for adapter, part in _by_adapter(head)
    ]
    layout = {
        "xaxis": {"title": "Principal direction", "dtick": max(1, k // 16)},
        "yaxis": {"title": "Gain c / σ", "tickformat": "+" + percent_format(head["gain"].abs().max())},
        "shapes": [across(0.0, line={"color": NULL, "width": 1})],
    }
    strongest = row_of_max(head.assign(size=head["gain"].abs()), "size")
    title = (
        f"The largest gain is {two_digits(100 * strongest['gain'])} %, on direction {int(strongest['direction'])} "
        f"({strongest['adapter']})."
        if strongest is not None
        else "The update changes no singular value."
    )
    words = "First-order relative change of each singular value of the weight."
    return finish(go.Figure(bars, layout), title, words, 340, left=_LEFT)


def sweep(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the principal block's enrichment for every `k` at once.

    Args:
        table: sweep table(s) of one layer.
        k: principal rank in use, marked.
    """
    colors = adapter_colors(table["adapter"])
    lines = [
        {
            "type": "scatter",
            "x": _f32(part["principal_rank"]),
            "y": _f32(part["enrichment"]),
            "mode": "lines",
            "name": adapter,
            "line": {"color": colors[adapter], "width": 2},
            "customdata": _f32(part["pp"]),
            "hovertemplate": f"k = %{{x}}<br>%{{y:.3g}}× chance<br>share %{{customdata:.3%}}<extra>{adapter}</extra>",
        }
        for adapter, part in _by_adapter(table[table["pp"] > 0])
    ]
    here = {"type": "line", "xref": "x", "yref": "y domain", "x0": k, "x1": k, "y0": 0, "y1": 1}
    layout = {
        "xaxis": {"title": "Principal rank k", **direction_axis(table["principal_rank"].max())},
        "yaxis": {"title": "Enrichment (1 = chance)", **log_axis(table["enrichment"])},
        "shapes": [
            across(1.0, line={"color": NULL, "dash": "dash", "width": 2}),
            here | {"line": {"color": PRINCIPAL, "width": 1.5, "dash": "dot"}},
        ],
    }
    at_k = table[table["principal_rank"] == k]
    words = ", ".join(f"{row['adapter']} {two_digits(row['enrichment'])}×" for _, row in at_k.iterrows())
    return finish(
        go.Figure(lines, layout),
        f"Enrichment at k = {k}: {words}.",
        "Principal block's share over its share by chance, for every k: the split depends on k.",
        340,
        left=_LEFT,
    )


def _by_adapter(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each adapter, in the order in which they stand in the table."""
    return [(name, table[table["adapter"] == name]) for name in dict.fromkeys(table["adapter"])]


def _both_sides(table: pd.DataFrame, column: str, hover: str) -> list[dict[str, Any]]:
    """Return `column` of the direction table, once for each `{side}` and adapter, as lines in two panels."""
    colors = adapter_colors(table["adapter"])
    return [
        {
            "type": "scatter",
            "x": _f32(part["direction"]),
            "y": _f32(part[column.format(side=side)]),
            "mode": "lines",
            "line": {"color": colors[adapter], "width": 2},
            "name": adapter,
            "legendgroup": adapter,
            "showlegend": x == "x",
            "xaxis": x,
            "yaxis": y,
            "hovertemplate": f"{hover}<extra>{adapter}</extra>",
        }
        for adapter, part in _by_adapter(table)
        for side, (x, y) in zip(SIDES, PANELS, strict=True)
    ]


def _two_panels(x: dict[str, Any], y: dict[str, Any], title: str, shapes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the layout of the sides beside each other.

    Args:
        x: settings of both x axes.
        y: settings of both y axes, which are one.
        title: of the y axis.
        shapes: in the panels.
    """
    layout = _sides()
    axes = {name: layout[name] | x for name in ("xaxis", "xaxis2")}
    axes |= {"yaxis": layout["yaxis"] | y | {"title": title}, "yaxis2": layout["yaxis2"] | y}
    return {"annotations": layout["annotations"], "shapes": shapes, **axes}


@cache
def _sides() -> dict[str, Any]:
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=list(SIDES.values())
    )
    layout: dict[str, Any] = figure.to_dict()["layout"]
    return layout


def octave_means(directions: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the start of each octave of directions (1, 2, 3-4, 5-8, ...) and its mean share, the last one twice."""
    octave = np.ceil(np.log2(directions)).astype(int)
    starts = np.unique(octave, return_index=True)[1]
    means = np.array([shares[octave == octave[start]].mean() for start in starts])
    return np.append(directions[starts], directions[-1] + 1), np.append(means, means[-1])


def principal_bands(k: int, panels: Sequence[tuple[str, str]] = (("x", "y"),)) -> list[dict[str, Any]]:
    """Return the shapes that shade the principal directions.

    Args:
        k: principal rank.
        panels: axes of each, as traces name them.
    """
    band = {"type": "rect", "x0": 0.8, "x1": k + 0.5, "y0": 0, "y1": 1, "layer": "below"}
    look = {"fillcolor": PRINCIPAL, "opacity": 0.12, "line": {"width": 0}}
    return [band | look | {"xref": x, "yref": f"{y} domain"} for x, y in panels]


def direction_axis(last: int) -> dict[str, object]:
    """Logarithmic, so that the leading directions are seen beside hundreds of others; ticks at powers of two."""
    powers = range(0, int(last).bit_length(), 1 if last <= 128 else 2)
    ticks = [2**power for power in powers]
    return {"type": "log", "range": [np.log10(0.8), np.log10(last * 1.1)], "tickvals": ticks, "tickangle": 0}


def _f32(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.float32)
