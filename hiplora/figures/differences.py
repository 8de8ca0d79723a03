"""The modules that hold most of the difference of two adapters."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.style import BASE, CHANNELS, NULL, finish, of_any_geometry, percent, percent_format, two_digits

_MOST_BARS = 12
_LONGEST_MODULE = 44


@of_any_geometry
def difference_shares(table: pd.DataFrame) -> go.Figure:
    """Draw the modules with most of the squared difference, split by channel, and the cumulative curve beside them.

    Args:
        table: from `difference_table`.
    """
    ranked = table.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)
    ranked["cumulative"] = ranked["share"].cumsum()
    shown = ranked.head(_MOST_BARS)
    places = list(range(len(shown)))
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        column_widths=[0.66, 0.34],
        horizontal_spacing=0.08,
        subplot_titles=["each module", "cumulative"],
    )
    details = np.column_stack([shown["module"], shown["share"].map(percent), shown["relative_norm"].map(two_digits)])
    for column, channel in zip(("pp", "mixed", "rr"), CHANNELS, strict=True):
        figure.add_bar(
            y=places,
            x=(shown["share"] * shown[column]).to_numpy(np.float32),
            orientation="h",
            name=channel.name,
            marker_color=channel.color,
            customdata=details,
            hovertemplate=f"<b>%{{customdata[0]}}</b><br>%{{x:.2%}} of the whole difference, {channel.name}<br>"
            "%{customdata[1]} in all channels<br>relative difference %{customdata[2]}<extra></extra>",
            row=1,
            col=1,
        )
    figure.add_scatter(
        x=shown["cumulative"].to_numpy(np.float32),
        y=places,
        mode="lines+markers",
        name="cumulative",
        line={"color": BASE, "width": 2},
        customdata=shown["module"],
        hovertemplate="down to %{customdata}<br>%{x:.1%} of the difference<extra></extra>",
        showlegend=False,
        row=1,
        col=2,
    )
    figure.add_vline(x=0.5, line={"color": NULL, "width": 1, "dash": "dot"}, row=1, col=2)
    figure.update_layout(barmode="stack")
    figure.update_yaxes(
        tickvals=places, ticktext=[_short(name) for name in shown["module"]], range=[len(shown) - 0.5, -0.5], title=None
    )
    figure.update_xaxes(
        title="Share of the difference", tickformat=percent_format(shown["share"].max()), rangemode="tozero", col=1
    )
    figure.update_xaxes(title="Cumulative", tickformat=".0%", range=[0, 1], tickvals=[0, 0.5, 1], col=2)
    finish(
        figure,
        _finding(ranked),
        f"Squared difference of {' and '.join(_pair(table))}, module by module, split by channel"
        + (f"; the {len(shown)} largest of {len(ranked)}." if len(shown) < len(ranked) else "."),
        170 + 26 * len(shown),
        panels=True,
    )
    # Room for the last label, and the channels in the order in which they are stacked.
    return figure.update_layout(legend={"traceorder": "normal"}, margin_r=24)


def _finding(ranked: pd.DataFrame) -> str:
    first, second = _pair(ranked)
    if not ranked["share"].notna().any():
        return f"{first} and {second} do the same to every module."
    # The fewest modules that hold half: rounding must not add one more.
    count = int((ranked["cumulative"] < 0.5 - 1e-9).sum()) + 1
    holds = "holds" if count == 1 else "hold"
    return (
        f"{count} of {len(ranked)} modules {holds} {percent(ranked['cumulative'].iloc[count - 1])} of the difference; "
        f"spread evenly it would be {percent(count / len(ranked))}."
    )


def _pair(table: pd.DataFrame) -> tuple[str, str]:
    return str(table["first"].iloc[0]), str(table["second"].iloc[0])


def _short(module: str) -> str:
    """Return a module's name without the prefix that all share, so that a narrow screen has room for the bars."""
    name = module.removeprefix("model.").removeprefix("layers.")
    return name if len(name) <= _LONGEST_MODULE else "…" + name[1 - _LONGEST_MODULE :]
