"""The two channels and what mixes them: norms per layer, and the four blocks."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.style import MIXED, PRINCIPAL, RESIDUAL, finish, layer_axis, log_axis, percent

_BLOCKS = (
    ("pp", "PP  principal on both sides", PRINCIPAL),
    ("pr", "PR  writes principal, reads residual", MIXED[0]),
    ("rp", "RP  writes residual, reads principal", MIXED[1]),
    ("rr", "RR  residual on both sides", RESIDUAL),
)


def channel_norms(table: pd.DataFrame, kind: str | None = None) -> go.Figure:
    """Draw principal, mixed and residual norm per layer, one panel per adapter on shared axes.

    Args:
        table: from `channel_table`, with at least one row.
        kind: the kind of module in it, for the words; None for all.
    """
    adapters = list(dict.fromkeys(table["adapter"]))
    figure = make_subplots(
        rows=1, cols=len(adapters), shared_yaxes=True, subplot_titles=adapters, horizontal_spacing=0.05 / len(adapters)
    )
    styles = (
        ("principal_norm", "principal channel ‖PP‖", PRINCIPAL, "circle", "solid"),
        ("mixed_norm", "mixed blocks ‖PR + RP‖", MIXED[0], "x", "dot"),
        ("residual_norm", "residual channel ‖RR‖", RESIDUAL, "square", "solid"),
    )
    # Mixed blocks below a ten-thousandth of the update are rounding: they would only stretch a logarithmic axis.
    table = table.assign(mixed_norm=table["mixed_norm"].where(table["mixed_norm"] > 1e-4 * table["norm"]))
    for col, adapter in enumerate(adapters, start=1):
        part = table[table["adapter"] == adapter]
        for column, name, color, symbol, dash in styles:
            values = part[column].where(part[column] > 0)
            figure.add_scatter(
                x=part["layer"].to_numpy(np.float32),
                y=values.to_numpy(np.float32),
                mode="lines+markers",
                name=name,
                line={"color": color, "width": 2, "dash": dash},
                marker={"symbol": symbol, "size": 7},
                legendgroup=column,
                showlegend=col == 1,
                row=1,
                col=col,
                hovertemplate="layer %{x}<br>norm %{y:.4g}<extra>" + name + "</extra>",
            )
    figure.update_xaxes(**layer_axis(table["layer"].astype(int).tolist()))
    shown = pd.concat([table[column][table[column] > 0] for column, *_ in styles])
    spans = len(shown) > 0 and shown.max() / shown.min() > 100
    figure.update_yaxes(**(log_axis(shown) if spans else {"rangemode": "tozero"}))
    figure.update_yaxes(title="Frobenius norm of the channel", row=1, col=1)
    sums = table.assign(pp=table["principal_norm"] ** 2, rr=table["residual_norm"] ** 2)
    sums = sums.groupby("adapter", sort=False)[["pp", "rr"]].sum() ** 0.5
    ratio = sums["pp"] / sums["rr"].where(sums["rr"] > 1e-4 * sums["pp"])
    words = ", ".join(f"{name} {percent(v)}" for name, v in ratio.items())
    return finish(
        figure,
        f"The principal channel's norm is this part of the residual one's: {words}.",
        f"Frobenius norms of the blocks of the update, {kind or 'all kinds of module in a layer together'}.",
        420,
        panels=True,
    )


def channel_blocks(summary: pd.DataFrame) -> go.Figure:
    """Draw the four blocks' shares of energy, one stacked bar per adapter.

    Args:
        summary: from `summary_table`.
    """
    names = summary["adapter"].tolist()
    figure = go.Figure()
    for column, name, color in _BLOCKS:
        figure.add_bar(
            y=names,
            x=summary[column],
            orientation="h",
            name=name,
            marker_color=color,
            width=0.6,
            text=[percent(v) if v > 0.04 else "" for v in summary[column]],
            textposition="inside",
            insidetextanchor="middle",
            textfont_color="#FFFFFF" if color != MIXED[1] else "#222222",
            hovertemplate="<b>%{y}</b><br>%{x:.4%} of the energy<extra>" + name + "</extra>",
        )
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title="Share of the update's energy", tickformat=".0%", range=[0, 1])
    figure.update_yaxes(autorange="reversed")
    mixed = summary["pr"] + summary["rp"]
    words = ", ".join(f"{name} {percent(value)}" for name, value in zip(names, mixed, strict=True))
    figure = finish(
        figure,
        f"In the mixed blocks, which no channel holds: {words}.",
        "The update split by the principal subspaces of both sides; the four shares add up to 1.",
        190 + 56 * len(names),
    )
    return figure.update_layout(legend={"traceorder": "normal"})
