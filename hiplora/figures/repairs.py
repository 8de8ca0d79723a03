"""Ways to mend an update: what each setting keeps of the task and of the base."""

import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.style import NULL, adapter_colors, blocks_of, finish, percent

_SYMBOLS = {
    "as trained": "star",
    "blocks": "circle",
    "scaled": "diamond",
    "rank cut": "square",
    "within budget": "triangle-up",
    "intruders mitigated": "cross",
}


def repair_outcomes(table: pd.DataFrame) -> go.Figure:
    """Draw task score against what is kept of the base for every setting, the best of each way filled.

    Args:
        table: of one update, from `hiplora.demo.repair`.
    """
    adapter = table["adapter"].iloc[0]
    color = adapter_colors(table["adapter"])[adapter]
    figure = go.Figure()
    for way, rows in table.groupby("way", sort=False):
        shade = color if way in ("blocks", "as trained") else NULL
        symbol = _SYMBOLS.get(str(way), "x")
        figure.add_scatter(
            x=rows["retention"],
            y=rows["task_score"],
            mode="markers",
            name=str(way),
            marker={
                "symbol": [symbol if best else f"{symbol}-open" for best in rows["chosen"]],
                "size": [15 if best else 9 for best in rows["chosen"]],
                "color": shade,
                "line": {"width": 1.5, "color": shade},
            },
            customdata=rows[["edit", "norm", "healed", "damaged", "validation_retention", "validation_task_score"]],
            hovertemplate=(
                "<b>%{customdata[0]}</b>, norm x %{customdata[1]:.2f}<br>base skills kept %{x:.1%}, task %{y:.1%}<br>"
                "healed %{customdata[2]:.0%}, damaged %{customdata[3]:.1%}<br>on the half that chose: kept "
                "%{customdata[4]:.1%}, task %{customdata[5]:.1%}<extra>" + str(way) + "</extra>"
            ),
        )
    figure.update_xaxes(title="Base skills kept", tickformat=".0%")
    figure.update_yaxes(title="Task score", tickformat=".0%")
    return finish(
        figure,
        _finding(table, adapter),
        "Scores on the half of the examples that chose nothing. Filled: the best setting of each way, chosen on the "
        "other half, where the task may lose one point." + blocks_of(table),
        420,
        left=72,
    )


def _finding(table: pd.DataFrame, adapter: str) -> str:
    trained = table.iloc[0]
    chosen = {row["way"]: row for row in table[table["chosen"]].to_dict("records")}
    if "blocks" not in chosen:
        return f"No edit by block keeps the task of {adapter}."
    best = chosen["blocks"]
    known = not pd.isna(best["task_score"])
    task = f", and scores {percent(best['task_score'])} on its task" if known else ""
    beside = ""
    if "scaled" in chosen:
        scaled, unsure = chosen["scaled"], best["gain_low"] <= 0 <= best["gain_high"]
        beside = f"; scaled ({scaled['edit']}) it keeps {percent(scaled['retention'])}"
        beside += ", which these examples cannot tell apart" if unsure else ""
    return (
        f"With {best['edit']}, {adapter} keeps {percent(best['retention'])} of the base instead of "
        f"{percent(trained['retention'])}{task}{beside}."
    )
