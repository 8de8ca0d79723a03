"""The curves that grow while runs train. Vega draws them: it takes new points in place, where Plotly starts anew."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from hiplora.figures.style import adapter_colors, percent, two_digits
from hiplora.training import Run

_HEIGHT = 320
# What the price of the budget leaves of a loss may be rounding, below what a logarithmic axis can show.
_LEAST = 1e-6


def loss_chart(table: pd.DataFrame, runs: Sequence[Run]) -> alt.Chart:
    """Draw the task loss of every step, all runs on the same axes.

    Args:
        table: from `step_table`.
        runs: in the order of their colours.
    """
    return (
        alt.Chart(_plain(table[["run", "step", "task_loss"]]).assign(shown=table["task_loss"].clip(lower=_LEAST)))
        .mark_line(strokeWidth=2)
        .encode(
            x=_step_axis(runs),
            y=alt.Y("shown:Q", title="Task loss", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~g")),
            color=_color(table, runs),
            tooltip=["run:N", "step:Q", alt.Tooltip("task_loss:Q", format=".4g", title="task loss")],
        )
        .properties(height=_HEIGHT)
    )


def score_chart(table: pd.DataFrame, runs: Sequence[Run]) -> alt.LayerChart:
    """Draw what is learned and what is kept at every scored step, all runs on the same axes.

    Args:
        table: from `score_table`.
        runs: in the order of their colours.
    """
    names = {"task": "task score", "retention": "base skills kept"}
    shown = table[table["role"].isin(names)]
    shown = shown.assign(what=shown["role"].map(names))
    # Of the demo's tasks both are shares; the probe's of a file may rise above 1.
    scale = alt.Scale(domain=[0, 1.02], nice=False) if all(run.config.task for run in runs) else alt.Scale(zero=True)
    chart = alt.Chart().encode(
        x=_step_axis(runs),
        y=alt.Y("score:Q", title="Score", scale=scale, axis=alt.Axis(format=".0%")),
        color=_color(table, runs),
        tooltip=["run:N", "step:Q", alt.Tooltip("what:N", title="score of"), alt.Tooltip("score:Q", format=".1%")],
    )
    dash = alt.StrokeDash(
        "what:N",
        scale=alt.Scale(domain=list(names.values()), range=[[1, 0], [5, 4]]),
        legend=alt.Legend(
            title=None, orient="bottom", symbolType="stroke", symbolSize=300, symbolStrokeColor="#8A8A8A"
        ),
    )
    layers = [chart.mark_line(strokeWidth=2).encode(strokeDash=dash), chart.mark_circle(size=36, opacity=1)]
    data = _plain(shown[["run", "step", "what", "score"]])
    return alt.LayerChart(data=data, layer=layers, height=_HEIGHT)


def loss_finding(table: pd.DataFrame, runs: Sequence[Run]) -> str:
    """Say where the loss of each run stands."""
    words = []
    for run in runs:
        part = table[table["run"] == run.name]
        if len(part):
            first, last = part["task_loss"].iloc[0], part["task_loss"].tail(5).mean()
            words.append(f"{run.name} from {two_digits(first)} to {two_digits(last)}")
    return f"Task loss: {', '.join(words)}." if words else "Task loss: no step yet."


def score_finding(table: pd.DataFrame, runs: Sequence[Run]) -> str:
    """Say what each run has learned and kept."""
    words = []
    for run in runs:
        part = table[table["run"] == run.name].groupby("role").tail(1).set_index("role")["score"]
        if "task" in part:
            text = f"{run.name} scores {percent(part['task'])}"
            words.append(f"{text} and keeps {percent(part['retention'])} of the base" if "retention" in part else text)
    return f"{'; '.join(words)}." if words else "Not scored yet."


def _step_axis(runs: Sequence[Run]) -> alt.X:
    # Fixed from the start: an axis that moves would have the whole chart drawn anew.
    longest = max(run.config.steps for run in runs)
    return alt.X("step:Q", title="Step", scale=alt.Scale(domain=[0, longest], nice=False))


def _color(table: pd.DataFrame, runs: Sequence[Run]) -> Any:
    colors = adapter_colors(table["run"])
    return alt.Color(
        "run:N",
        scale=alt.Scale(domain=list(colors), range=list(colors.values())),
        legend=alt.Legend(title=None, orient="top", labelLimit=0, symbolType="stroke", symbolSize=300)
        if len(runs) > 1
        else None,
    )


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without categories, whose order the scales already have."""
    return table.astype({"run": str})
