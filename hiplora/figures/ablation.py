"""What each block of an update causes, beside its control."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.style import NULL, adapter_colors, blocks_of, finish, percent

_PANELS = (
    ("retention", "control_retention", "Base skills kept"),
    ("task_score", "control_task_score", "Task score"),
)
_ENOUGH = 0.01
"""What an edit may lose of the task and still count as keeping it."""


def block_effects(table: pd.DataFrame) -> go.Figure:
    """Draw what is kept of the base and of the task after each edit, each beside its norm-matched control.

    Args:
        table: of one update, from `hiplora.demo.ablation`.
    """
    adapter = table["adapter"].iloc[0]
    color = adapter_colors(table["adapter"])[adapter]
    panels = [panel for panel in _PANELS if table[panel[0]].notna().any()]
    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.05)
    rows = np.arange(len(table), dtype=np.float32)
    for column, (own, control, title) in enumerate(panels, start=1):
        pairs = table[[own, control]].to_numpy(np.float32)
        # A line from each control to its edit, broken between the rows.
        gaps = np.full(len(table), np.nan, np.float32)
        figure.add_scatter(
            x=np.column_stack([pairs[:, 0], pairs[:, 1], gaps]).ravel(),
            y=np.column_stack([rows, rows, gaps]).ravel(),
            mode="lines",
            line={"color": NULL, "width": 2},
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=column,
        )
        marks = (
            (control, "its control: the whole update, scaled to the same norm", NULL, "circle-open"),
            (own, "the edit", color, "circle"),
        )
        for name, legend, shade, symbol in marks:
            figure.add_scatter(
                x=table[name].to_numpy(np.float32),
                y=rows,
                mode="markers",
                name=legend,
                legendgroup=legend,
                showlegend=column == 1,
                marker={"color": shade, "symbol": symbol, "size": 12, "line": {"width": 2, "color": shade}},
                customdata=np.column_stack([table["edit"], table["norm"].map(lambda norm: f"{norm:.2f}")]),
                hovertemplate="<b>%{customdata[0]}</b>, norm x %{customdata[1]}: %{x:.1%}<extra>" + legend + "</extra>",
                row=1,
                col=column,
            )
        figure.update_xaxes(title=title, tickformat=".0%", row=1, col=column)
    figure.update_yaxes(range=[len(table) - 0.5, -0.5], zeroline=False)
    figure.update_yaxes(tickvals=rows, ticktext=table["edit"].tolist(), row=1, col=1)
    return finish(
        figure,
        _finding(table, adapter),
        "Exact scores on held-out examples. An edit says something only where it differs from its control: less of "
        "almost anything helps an update that has learned more than it needs." + blocks_of(table),
        150 + 34 * len(table),
    )


def _finding(table: pd.DataFrame, adapter: str) -> str:
    trained = table.iloc[0]
    task = table["task_score"].fillna(1.0)
    fine = table[(task >= task.iloc[0] - _ENOUGH) & (table["gain_low"] > 0)]
    if fine.empty:
        return f"No part of {adapter} can go for the base's sake without losing more than its size accounts for."
    best = fine.loc[fine["retention"].idxmax()]
    edit = str(best["edit"])
    return (
        f"{edit[0].upper()}{edit[1:]}, {adapter} keeps "
        f"{percent(best['retention'])} of the base instead of {percent(trained['retention'])}, and its task; scaled to "
        f"the same norm it keeps {percent(best['control_retention'])}."
    )
