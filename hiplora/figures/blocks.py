"""The four blocks of each update: principal or residual on the side it writes and on the side it reads."""

import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.style import MIXED, PRINCIPAL, RESIDUAL, finish, of_any_geometry, percent

_BLOCKS = (
    ("pp", "PP  principal on both sides", PRINCIPAL),
    ("pr", "PR  writes principal, reads residual", MIXED[0]),
    ("rp", "RP  writes residual, reads principal", MIXED[1]),
    ("rr", "RR  residual on both sides", RESIDUAL),
)


@of_any_geometry
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
    words = ", ".join(f"{percent(value)} of {name}" for name, value in zip(names, mixed, strict=True))
    figure = finish(
        figure,
        f"Touching leading directions on one side only: {words}.",
        "The update split by the principal subspaces of both sides; the four shares add up to 1. HiP-LoRA rules mixed "
        "blocks out.",
        190 + 56 * len(names),
    )
    return figure.update_layout(legend={"traceorder": "normal"})
