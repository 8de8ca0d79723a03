"""An update's energy along the weight's singular directions, on the left and on the right side."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.axes import direction_axis
from hiplora.figures.panels import PANELS, SIDES, across, null_traces, octave_means, principal_bands, side_panels
from hiplora.figures.style import (
    LABEL_WIDTH,
    NULL,
    adapter_colors,
    adapter_dashes,
    by_adapter,
    finish,
    of_any_geometry,
    percent,
    percent_format,
)


@of_any_geometry
def direction_energy(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the share of the update's energy on each left and right singular direction, with its mean by chance.

    Args:
        table: direction table(s) of one layer, one block of rows per adapter.
        k: principal rank.
    """
    lines = _both_sides(table, "{side}", "direction %{x}<br>%{y:.3%} of the energy")
    # The shares of single directions are noisy; the octave means show the level.
    levels = []
    for line in lines:
        x, y = octave_means(line["x"], line["y"])
        levels.append(
            line
            | {
                "x": x,
                "y": y,
                "line": line["line"] | {"width": 3, "shape": "hv"},
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
    figure = _two_panels(
        [*lines, *levels],
        {"title": "Singular direction", **direction_axis(table["direction"].max())},
        {"tickformat": percent_format(largest), "rangemode": "tozero"},
        "Share of the update's energy",
        [*chance, *principal_bands(k, PANELS)],
    )
    head = table[table["direction"] <= k].groupby("adapter", sort=False)[["left", "right"]].sum().mean(axis=1)
    words = ", ".join(f"{name} {percent(value)}" for name, value in head.items())
    return finish(
        figure,
        f"On the top {k} directions: {words}.",
        "Energy of the update on each singular direction of the weight (mean of both sides in the title). Bold: mean "
        "of the octaves 1, 2, 3–4, 5–8, …; dashed: one direction's share by chance.",
        380,
        panels=True,
        left=LABEL_WIDTH,
    )


@of_any_geometry
def cumulative_energy(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the cumulative share of energy against the isotropic null with its 95 % band, left and right.

    Args:
        table: direction table(s) of one layer.
        k: principal rank.
    """
    lines = _both_sides(table, "{side}_cumulative", "top %{x}<br>%{y:.2%} of the energy")
    widest = table.groupby("adapter", sort=False)["left_null_high"].sum().idxmax()
    null = table[table["adapter"] == widest]
    x, hover = null["direction"].to_numpy(np.float32), "top %{x}<br>%{y:.2%} by chance<extra></extra>"
    for side, axes in zip(SIDES, PANELS, strict=True):
        edges = null[f"{side}_null_low"], null[f"{side}_null_high"]
        lines += null_traces(x, edges, null[f"{side}_null"], axes, hover=hover)
    figure = _two_panels(
        lines,
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
        figure,
        f"On both sides, up to direction {k}: {'; '.join(words) or 'no adapter is above or below chance'}.",
        "Cumulative energy against an isotropic update with the same singular values. The longer side of a weight has "
        "more dimensions than the weight has directions, so its curve ends below 100 %.",
        380,
        panels=True,
        left=LABEL_WIDTH,
    )


def _both_sides(table: pd.DataFrame, column: str, hover: str) -> list[dict[str, Any]]:
    """Return `column` of the direction table, once for each `{side}` and adapter, as lines in two panels."""
    colors, dashes = adapter_colors(table["adapter"]), adapter_dashes(table["adapter"])
    return [
        {
            "type": "scatter",
            "x": part["direction"].to_numpy(np.float32),
            "y": part[column.format(side=side)].to_numpy(np.float32),
            "mode": "lines",
            "line": {"color": colors[adapter], "dash": dashes[adapter], "width": 2},
            "name": adapter,
            "legendgroup": adapter,
            "showlegend": x == "x",
            "xaxis": x,
            "yaxis": y,
            "hovertemplate": f"{hover}<extra>{adapter}</extra>",
        }
        for adapter, part in by_adapter(table)
        for side, (x, y) in zip(SIDES, PANELS, strict=True)
    ]


def _two_panels(
    traces: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], title: str, shapes: list[dict[str, Any]]
) -> go.Figure:
    """Return a figure of both sides, next to each other.

    Args:
        traces: in the panels.
        x: settings of both x axes.
        y: settings of the y axis that both share.
        title: of the y axis.
        shapes: in the panels.
    """
    layout = _side_layout()
    axes = {name: layout[name] | x for name in ("xaxis", "xaxis2")}
    axes |= {"yaxis": layout["yaxis"] | y | {"title": title}, "yaxis2": layout["yaxis2"] | y}
    return go.Figure(traces, {"annotations": layout["annotations"], "shapes": shapes, **axes})


@cache
def _side_layout() -> dict[str, Any]:
    layout: dict[str, Any] = side_panels().to_dict()["layout"]
    return layout
