"""Task score against retention, with the Pareto-optimal adapters."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.style import (
    BASE,
    NULL,
    adapter_colors,
    by_adapter,
    finish,
    method_symbols,
    percent_format,
    two_digits,
)


def frontier(table: pd.DataFrame, chosen: Sequence[str] = ()) -> go.Figure:
    """Draw task score against retention, one mark per adapter by method, and join the Pareto-optimal ones.

    Args:
        table: from `frontier_table`, of one task, with at least one row.
        chosen: adapters to be named, in the order chosen, which determines their colors.
    """
    chosen = list(chosen)
    colors = adapter_colors(pd.Series(chosen, dtype=object))
    symbols = method_symbols(table["method"])
    best = table[table["on_frontier"]].sort_values(["task_score", "retention"], ascending=[True, False])
    figure = go.Figure()
    figure.add_scatter(
        x=best["task_score"].to_numpy(np.float32),
        y=best["retention"].to_numpy(np.float32),
        mode="lines",
        name="Pareto-optimal",
        line={"color": NULL, "width": 2, "dash": "dot"},
        hoverinfo="skip",
    )
    for method, part in by_adapter(table, "method"):
        bold = part["adapter"].isin(chosen)
        figure.add_scatter(
            x=part["task_score"].to_numpy(np.float32),
            y=part["retention"].to_numpy(np.float32),
            mode="markers",
            name=method,
            showlegend=False,
            cliponaxis=False,
            marker={
                "symbol": symbols[method],
                "color": [colors.get(name, BASE) for name in part["adapter"]],
                "size": bold.map({True: 15, False: 9}).tolist(),
                "opacity": bold.map({True: 1.0, False: 0.75}).tolist(),
            },
            customdata=np.column_stack(
                [
                    part["adapter"],
                    part["task"],
                    part["steps"].map(_whole),
                    part["seed"].map(_whole),
                    part["budget"].where(part["budget"] != "", "no budget"),
                    part["relative_norm"].map(two_digits),
                ]
            ),
            hovertemplate=f"<b>%{{customdata[0]}}</b>, {method}<br>"
            "task %{customdata[1]} %{x:.2%}, kept %{y:.2%}<br>"
            "%{customdata[2]} steps, seed %{customdata[3]}, %{customdata[4]}<br>"
            "relative norm %{customdata[5]}<extra></extra>",
        )
        # The legend shows methods, which have marks but not colors.
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=method,
            marker={"symbol": symbols[method], "color": BASE, "size": 9},
        )
    named = table[table["adapter"].isin(chosen)]
    beaten = named.loc[~named["on_frontier"], "adapter"].tolist()
    middle = (table["task_score"].min() + table["task_score"].max()) / 2
    for _, row in named.iterrows():
        right = row["task_score"] > middle
        figure.add_annotation(
            x=row["task_score"],
            y=row["retention"],
            text=row["adapter"],
            showarrow=False,
            xanchor="right" if right else "left",
            xshift=-12 if right else 12,
            font={"color": colors[row["adapter"]]},
        )
    figure.update_xaxes(title="Task score", **_score_axis(table["task_score"]))
    figure.update_yaxes(title="Base skills kept", **_score_axis(table["retention"]))
    return finish(
        figure,
        f"Pareto-optimal on {table['task'].iloc[0]}: {_listed(best['adapter'].tolist())}"
        + (f"; not: {_listed(beaten)}." if beaten else "."),
        "Up and to the right is better; marks by method, chosen adapters in color. Dotted line: the best trade-offs "
        "(no other adapter is at least as good at both and better at one)." + _unequal(table["steps"].dropna()),
        420,
    )


def _unequal(steps: pd.Series) -> str:
    """Return a warning if some trained longer than others, else an empty text."""
    if steps.nunique() < 2:
        return ""
    return f" Not all trained equally long: {steps.min():.0f} to {steps.max():.0f} steps."


def _whole(number: float) -> str:
    return f"{number:.0f}" if np.isfinite(number) else "–"


def _score_axis(scores: pd.Series) -> dict[str, Any]:
    """Return an axis around scores, never so close that their rounding looks like a difference."""
    low, high = float(scores.min()), float(scores.max())
    pad = max(0.12 * (high - low), 0.01)
    # Nothing scores much above 1, so the axis does not need room there.
    top = max(min(high + pad, 1 + pad / 4), high)
    return {"range": [low - pad, top], "tickformat": percent_format(top - low + pad)}


def _listed(names: Sequence[str]) -> str:
    """Return names joined for a sentence; of many, the rest are counted."""
    shown = list(names[:3]) + ([f"{len(names) - 3} more"] if len(names) > 3 else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
