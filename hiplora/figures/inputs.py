"""One update as the weights see it and as the inputs do, and what it does to outputs: the page Learn."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.panels import null_traces
from hiplora.figures.style import NULL, PRINCIPAL, finish, percent, two_digits

_NAMES = {"weights": "the weights say", "inputs": "the inputs say"}
_ROUNDING = 1e-10
"""What single precision of the singular vectors leaves of a share or a mean square in place of nothing."""


def two_views(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the principal share of one update in either geometry, each with its null and band.

    Args:
        table: from `hiplora.learn.two_views`.
        k: principal rank, for the words.
    """
    names = [_NAMES[geometry] for geometry in table["geometry"]]
    figure = go.Figure()
    figure.add_bar(
        y=names,
        x=table["pp"].fillna(0.0),
        orientation="h",
        width=0.5,
        marker_color=PRINCIPAL,
        customdata=table[["pp_null", "pp_null_low", "pp_null_high", "relative_norm"]],
        hovertemplate=(
            "%{y}: %{x:.2%}<br>by chance %{customdata[0]:.2%} (95 %: %{customdata[1]:.2%} to %{customdata[2]:.2%})<br>"
            "relative size %{customdata[3]:.3g}<extra></extra>"
        ),
        showlegend=False,
    )
    for place, row in enumerate(table.itertuples()):
        figure.add_shape(
            type="rect",
            x0=row.pp_null_low,
            x1=row.pp_null_high,
            y0=place - 0.36,
            y1=place + 0.36,
            fillcolor=NULL,
            opacity=0.35,
            line_width=0,
        )
        for line in ({"color": "#FFFFFF", "width": 5}, {"color": NULL, "dash": "dash", "width": 2}):
            figure.add_shape(type="line", x0=row.pp_null, x1=row.pp_null, y0=place - 0.4, y1=place + 0.4, line=line)
    # Beyond the band, which would cross the words at the end of a short bar.
    figure.add_scatter(
        x=np.fmax(table["pp"], table["pp_null_high"]) + 0.02,
        y=names,
        mode="text",
        text=[_said(share, times) for share, times in zip(table["pp"], table["enrichment"], strict=True)],
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="lines",
        line={"color": NULL, "dash": "dash", "width": 2},
        name="by chance (random update), 95 % band",
    )
    figure.update_xaxes(title="Share of the update in the principal block", tickformat=".0%", range=[0, 1.45])
    figure.update_yaxes(autorange="reversed", title=None)
    weights, inputs = (table[table["geometry"] == geometry].iloc[0] for geometry in _NAMES)
    heard = "do not notice it" if np.isnan(inputs["pp"]) else f"say {two_digits(_kept(inputs['enrichment']))} times"
    return finish(
        figure,
        f"The weights say {two_digits(_kept(weights['enrichment']))} times chance, the inputs {heard}.",
        f"Share of the update's energy, and of its effect on the inputs, in the leading {k} × {k} directions of each "
        f"geometry. Relative norm {two_digits(weights['relative_norm'])}, relative effect "
        f"{two_digits(inputs['relative_norm'])}.",
        300,
    )


def input_damage(table: pd.DataFrame, use: float) -> go.Figure:
    """Draw how much an update changes the outputs, over how much inputs use the strongest direction, beside chance.

    Args:
        table: from `hiplora.learn.input_damages`; one of its rows is at `use`.
        use: the present position.
    """
    here = table.loc[table["use"] == use].iloc[0]
    hover = "used %{x:g} times as much as others<br>%{y:.3g} times a random update's effect"
    times = table["damage"] / table["null"]
    figure = go.Figure()
    figure.add_traces(
        null_traces(
            table["use"].to_numpy(np.float32),
            (table["null_low"] / table["null"], table["null_high"] / table["null"]),
            np.ones(len(table)),
            ("x", "y"),
        )
    )
    figure.add_scatter(
        x=table["use"],
        y=times,
        mode="lines",
        name="this update",
        line={"color": PRINCIPAL, "width": 3},
        hovertemplate=f"{hover}<extra>this update</extra>",
    )
    figure.add_scatter(
        x=[use],
        y=[here["damage"] / here["null"]],
        mode="markers",
        name="now",
        showlegend=False,
        marker={"color": PRINCIPAL, "size": 13, "line": {"color": "#FFFFFF", "width": 2}},
        hovertemplate=f"{hover}<extra>now</extra>",
    )
    figure.add_vline(x=use, line={"color": NULL, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(title="Use of the strong direction by inputs (1: as much as any other)", range=[-0.08, 3.08])
    top = max(float(times.max()), float((table["null_high"] / table["null"]).max()))
    figure.update_yaxes(
        title="E‖ΔW x‖², 1 = a random update", range=[-0.04 * top, 1.06 * top], zeroline=False, tickformat="~g"
    )
    return finish(
        figure,
        f"It changes outputs by {percent(_kept(here['damage']))}, a random update of its size by "
        f"{percent(here['null'])}.",
        "Mean square change of the output over the output's own, on all such inputs. 95 % of random updates: "
        f"{percent(here['null_low'])} to {percent(here['null_high'])}.",
        300,
    )


def _kept(value: float) -> float:
    """Return a number, 0 where it is rounding."""
    return value if value > _ROUNDING else 0.0


def _said(share: float, times: float) -> str:
    """Return the words at the end of a bar."""
    if np.isnan(share):
        return "no effect at all"
    return f"{percent(_kept(share))}  ({two_digits(_kept(times))}×)"
