"""One layer, one adapter or several: where along the weight's singular directions the update lies."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.style import (
    BASE,
    NULL,
    PRINCIPAL,
    adapter_colors,
    add_null,
    finish,
    log_axis,
    percent,
    percent_format,
    row_of_max,
    two_digits,
)

_DIRECTION = "Singular direction of the weight, leading first"
SIDES = {"left": "left: what it writes", "right": "right: what it reads"}


def singular_values(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the singular values of the weight, with the principal ones marked.

    Args:
        table: direction table(s) of one layer.
        k: principal rank.
    """
    one = table.drop_duplicates("direction")
    figure = go.Figure()
    figure.add_scatter(
        x=_f32(one["direction"]),
        y=_f32(one["sigma"]),
        mode="lines",
        line={"color": BASE, "width": 2},
        name="σ",
        hovertemplate="direction %{x}<br>σ = %{y:.4g}<extra></extra>",
        showlegend=False,
    )
    mark_principal(figure, k)
    share = float(one.loc[one["direction"] <= k, "sigma_share"].sum())
    figure.update_xaxes(title=_DIRECTION, **direction_axis(len(one)))
    figure.update_yaxes(title="Singular value σ of the weight", rangemode="tozero")
    return finish(
        figure,
        f"The top {k} directions hold {percent(share)} of the weight's energy.",
        "Leading singular values of the frozen weight; the share is of its whole energy.",
        340,
    )


def direction_energy(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the share of the update's energy on each left and right singular direction, with its mean by chance.

    Args:
        table: direction table(s) of one layer, one block of rows per adapter.
        k: principal rank.
    """
    figure = _both_sides(table, "{side}", "direction %{x}<br>%{y:.3%} of the energy")
    # One direction's share jumps about; what is to be seen is the level, octave by octave.
    for trace in list(figure.data):
        x, y = octave_means(np.asarray(trace.x), np.asarray(trace.y))
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": trace.line.color, "width": 3, "shape": "hv"},
            xaxis=trace.xaxis,
            yaxis=trace.yaxis,
            legendgroup=trace.legendgroup,
            showlegend=trace.showlegend,
            name=f"{trace.name}, octave means",
            hovertemplate=f"from direction %{{x}}<br>%{{y:.3%}} on average<extra>{trace.name}</extra>",
        )
        trace.update(line_width=1, opacity=0.35, showlegend=False)
    for col, side in enumerate(SIDES, start=1):
        figure.add_hline(
            y=float(table[f"{side}_null"].iloc[0]), line={"color": NULL, "dash": "dash", "width": 2}, row=1, col=col
        )
    mark_principal(figure, k)
    figure.update_xaxes(title="Singular direction", **direction_axis(table["direction"].max()))
    figure.update_yaxes(
        title="Share of the update's energy",
        tickformat=percent_format(table[["left", "right"]].max().max()),
        row=1,
        col=1,
    )
    figure.update_yaxes(rangemode="tozero")
    head = table[table["direction"] <= k].groupby("adapter", sort=False)[["left", "right"]].sum().mean(axis=1)
    words = ", ".join(f"{name} {percent(value)}" for name, value in head.items())
    return finish(
        figure,
        f"On the top {k} directions: {words}.",
        "Energy of the update on each singular direction of the weight (mean of both sides in the title). Bold: mean "
        "of the octaves 1, 2, 3–4, 5–8, …; dashed: one direction's share by chance.",
        380,
        panels=True,
    )


def cumulative_energy(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the cumulative share of energy against the isotropic null with its 95 % band, left and right.

    Args:
        table: direction table(s) of one layer.
        k: principal rank.
    """
    figure = _both_sides(table, "{side}_cumulative", "top %{x}<br>%{y:.2%} of the energy")
    widest = table.groupby("adapter", sort=False)["left_null_high"].sum().idxmax()
    null = table[table["adapter"] == widest]
    x = _f32(null["direction"])
    for col, side in enumerate(SIDES, start=1):
        edges = (_f32(null[f"{side}_null_low"]), _f32(null[f"{side}_null_high"]))
        hover = "top %{x}<br>%{y:.2%} by chance<extra></extra>"
        add_null(figure, x, edges, _f32(null[f"{side}_null"]), row=1, col=col, hover=hover)
    mark_principal(figure, k)
    figure.update_xaxes(title="Leading directions counted", **direction_axis(table["direction"].max()))
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    figure.update_yaxes(title="Cumulative share of energy", row=1, col=1)
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
    )


def gains(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the first-order relative change of each principal singular value.

    Args:
        table: direction table(s) of one layer.
        k: principal rank; only these directions are drawn.
    """
    head = table[table["direction"] <= k]
    adapters = list(dict.fromkeys(head["adapter"]))
    colors = adapter_colors(table["adapter"])
    figure = go.Figure()
    for adapter in adapters:
        part = head[head["adapter"] == adapter]
        figure.add_bar(
            x=_f32(part["direction"]),
            y=_f32(part["gain"]),
            marker_color=colors[adapter],
            name=adapter,
            customdata=_f32(part["core_change"]),
            hovertemplate="direction %{x}<br>gain %{y:+.3%}<br>change %{customdata:+.3g}<extra>" + adapter + "</extra>",
        )
    figure.add_hline(y=0, line={"color": NULL, "width": 1})
    figure.update_xaxes(title="Principal direction", dtick=max(1, k // 16))
    figure.update_yaxes(title="Gain c / σ", tickformat="+" + percent_format(head["gain"].abs().max()))
    strongest = row_of_max(head.assign(size=head["gain"].abs()), "size")
    title = (
        f"The largest gain is {two_digits(100 * strongest['gain'])} %, on direction {int(strongest['direction'])} "
        f"({strongest['adapter']})."
        if strongest is not None
        else "The update changes no singular value."
    )
    return finish(figure, title, "First-order relative change of each singular value of the weight.", 340)


def sweep(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the principal block's enrichment for every `k` at once.

    Args:
        table: sweep table(s) of one layer.
        k: principal rank in use, marked.
    """
    adapters = list(dict.fromkeys(table["adapter"]))
    colors = adapter_colors(table["adapter"])
    figure = go.Figure()
    for adapter in adapters:
        part = table[(table["adapter"] == adapter) & (table["pp"] > 0)]
        figure.add_scatter(
            x=_f32(part["principal_rank"]),
            y=_f32(part["enrichment"]),
            mode="lines",
            name=adapter,
            line={"color": colors[adapter], "width": 2},
            customdata=_f32(part["pp"]),
            hovertemplate="k = %{x}<br>%{y:.3g}× chance<br>share %{customdata:.3%}<extra>" + adapter + "</extra>",
        )
    figure.add_hline(y=1, line={"color": NULL, "dash": "dash", "width": 2})
    figure.add_vline(x=k, line={"color": PRINCIPAL, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(title="Principal rank k", **direction_axis(table["principal_rank"].max()))
    figure.update_yaxes(title="Enrichment (1 = chance)", **log_axis(table["enrichment"]))
    at_k = table[table["principal_rank"] == k]
    words = ", ".join(f"{row['adapter']} {two_digits(row['enrichment'])}×" for _, row in at_k.iterrows())
    return finish(
        figure,
        f"Enrichment at k = {k}: {words}.",
        "Principal block's share over its share by chance, for every k: the split depends on k.",
        340,
    )


def _both_sides(table: pd.DataFrame, column: str, hover: str) -> go.Figure:
    """Draw `column` of the direction table, once for each `{side}`, in two panels with one line per adapter."""
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=list(SIDES.values())
    )
    colors = adapter_colors(table["adapter"])
    for adapter in dict.fromkeys(table["adapter"]):
        part = table[table["adapter"] == adapter]
        for col, side in enumerate(SIDES, start=1):
            figure.add_scatter(
                x=_f32(part["direction"]),
                y=_f32(part[column.format(side=side)]),
                mode="lines",
                line={"color": colors[adapter], "width": 2},
                name=adapter,
                legendgroup=adapter,
                showlegend=col == 1,
                row=1,
                col=col,
                hovertemplate=f"{hover}<extra>{adapter}</extra>",
            )
    return figure


def octave_means(directions: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the start of each octave of directions (1, 2, 3-4, 5-8, ...) and its mean share, the last one twice."""
    octave = np.ceil(np.log2(directions)).astype(int)
    starts = np.unique(octave, return_index=True)[1]
    means = np.array([shares[octave == octave[start]].mean() for start in starts])
    return np.append(directions[starts], directions[-1] + 1), np.append(means, means[-1])


def mark_principal(figure: go.Figure, k: int) -> None:
    """Shade the principal directions in every panel."""
    figure.add_vrect(x0=0.8, x1=k + 0.5, fillcolor=PRINCIPAL, opacity=0.12, line_width=0, layer="below")


def direction_axis(last: int) -> dict[str, object]:
    """Logarithmic, so that the leading directions are seen beside hundreds of others; ticks at powers of two."""
    powers = range(0, int(last).bit_length(), 1 if last <= 128 else 2)
    ticks = [2**power for power in powers]
    return {"type": "log", "range": [np.log10(0.8), np.log10(last * 1.1)], "tickvals": ticks, "tickangle": 0}


def _f32(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.float32)
