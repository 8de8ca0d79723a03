"""The share of each adapter's energy in the principal block, against chance."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.style import NULL, adapter_colors, finish, of_any_geometry, percent, times_chance, two_digits


def finding(summary: pd.DataFrame, k: int) -> str:
    """Return the finding in one sentence, computed from the summary table."""
    if summary.empty:
        return "No adapter is chosen."
    ranked = summary.sort_values("enrichment", ascending=False)
    top, last = ranked.iloc[0], ranked.iloc[-1]
    if top["pp"] <= top["pp_null_high"]:
        who, more = (top["adapter"], "no more") if len(ranked) == 1 else ("No adapter", "more")
        return f"{who} puts {more} into the top {k} directions than a random update would."
    text = (
        f"{top['adapter']} puts {times_chance(top['enrichment'])} into the top {k} directions as a random update would"
    )
    if len(ranked) > 1:
        text += f"; {last['adapter']}: {two_digits(last['enrichment'])} times"
    return text + "."


@of_any_geometry
def principal_share(summary: pd.DataFrame, k: int) -> go.Figure:
    """Draw one bar per adapter: its energy share in the principal block, with the null and its band.

    Args:
        summary: from `summary_table`.
        k: principal rank, for the words.
    """
    names = summary["adapter"].tolist()
    colors = adapter_colors(summary["adapter"])
    figure = go.Figure()
    figure.add_bar(
        y=names,
        x=summary["pp"],
        orientation="h",
        marker_color=[colors[name] for name in names],
        width=0.55,
        text=[f"{percent(pp)}  ({two_digits(e)}×)" for pp, e in zip(summary["pp"], summary["enrichment"], strict=True)],
        textposition="outside",
        cliponaxis=False,
        customdata=summary[["enrichment", "pp_null", "pp_null_low", "pp_null_high", "relative_norm"]],
        hovertemplate=(
            "<b>%{y}</b><br>principal block %{x:.3%}<br>enrichment %{customdata[0]:.3g}<br>"
            "by chance %{customdata[1]:.3%} (95 %: %{customdata[2]:.3%} to %{customdata[3]:.3%})<br>"
            "relative norm %{customdata[4]:.3g}<extra></extra>"
        ),
        showlegend=False,
    )
    for row, (mean, low, high) in enumerate(
        zip(summary["pp_null"], summary["pp_null_low"], summary["pp_null_high"], strict=True)
    ):
        # Below the bars, which they would seem to cut in two.
        ends = {"y0": row - 0.42, "y1": row + 0.42, "layer": "below"}
        figure.add_shape(type="rect", x0=low, x1=high, fillcolor=NULL, opacity=0.35, line_width=0, **ends)
        figure.add_shape(type="line", x0=mean, x1=mean, line={"color": NULL, "dash": "dash", "width": 2}, **ends)
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="lines",
        line={"color": NULL, "dash": "dash", "width": 2},
        name="by chance (random update), 95 % band",
    )
    right = float(np.nanmax(summary[["pp", "pp_null_high"]].to_numpy(np.float64)))
    figure.update_xaxes(
        title="Share of the update's energy in the principal block", tickformat=".1~%", range=[0, right * 1.3]
    )
    figure.update_yaxes(autorange="reversed", title=None)
    size = ", ".join(f"{n} {percent(v)}" for n, v in zip(names, summary["relative_norm"], strict=True))
    return finish(
        figure,
        finding(summary, k),
        f"Energy inside the leading {k} × {k} singular directions, all modules "
        f"together. Relative norm of the update: {size}.",
        150 + 62 * len(names),
    )
