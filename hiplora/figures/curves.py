"""Curves that grow while runs train. Vega draws them: it adds new points in place, where Plotly starts again."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from hiplora.figures.style import adapter_colors, percent, two_digits

_HEIGHT = 320
# The loss without the budget penalty may be rounding, too small for a logarithmic axis.
_LEAST = 1e-6
# By run, as its color; the first line is solid.
_SHAPES = ("circle", "diamond", "square", "triangle-up", "cross", "triangle-down")
_DASHES = [[1, 0], [2, 3], [8, 3, 2, 3], [10, 4], [12, 3, 2, 3, 2, 3], [2, 6]]


def loss_curves(table: pd.DataFrame, longest: int, smoothing: float = 0.0) -> alt.Chart | alt.LayerChart:
    """Draw the task loss of every step, all runs on the same axes.

    Args:
        table: from `step_table`.
        longest: steps of the longest run, where the axis ends from the start.
        smoothing: weight of the past in the curve, 0 to below 1, see `smoothed`; above 0 the values as recorded stay
            behind it, faint.
    """
    rows = _plain(table[["run", "step", "task_loss"]]).assign(shown=table["task_loss"].clip(lower=_LEAST))
    told: list[Any] = ["run:N", "step:Q", alt.Tooltip("task_loss:Q", format=".4g", title="task loss")]
    chart = alt.Chart().encode(
        x=_step_axis(longest),
        y=alt.Y("shown:Q", title="Task loss", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~g")),
        color=_by_run(alt.Color, table),
        strokeDash=_by_run(alt.StrokeDash, table, _DASHES),
        tooltip=told,
    )
    if not smoothing:
        return chart.mark_line(strokeWidth=2).properties(data=rows, height=_HEIGHT)
    rows["smoothed"] = smoothed(table, smoothing).clip(lower=_LEAST)
    told = [*told, alt.Tooltip("smoothed:Q", format=".4g", title="smoothed")]
    layers = [
        chart.mark_line(strokeWidth=1, opacity=0.3),
        chart.mark_line(strokeWidth=2).encode(y=alt.Y("smoothed:Q"), tooltip=told),
    ]
    return alt.LayerChart(data=rows, layer=layers, height=_HEIGHT)


def smoothed(table: pd.DataFrame, weight: float) -> pd.Series:
    """Return the task loss of each run as a running mean that starts at its first value, as TensorBoard has it.

    `m_n / (1 - w^n)` with `m_n = w m_{n-1} + (1 - w) x_n` and `m_0 = 0`, over the recorded steps.

    Args:
        table: from `step_table`.
        weight: `w`, of the past, 0 to below 1.
    """
    groups = table.groupby("run", observed=True, sort=False)["task_loss"]
    return groups.transform(lambda losses: losses.ewm(alpha=1 - weight).mean())


def score_curves(table: pd.DataFrame, longest: int, *, shares: bool = True) -> alt.LayerChart:
    """Draw task score and retention at every scored step, all runs on the same axes.

    Args:
        table: from `score_table`.
        longest: steps of the longest run, where the axis ends from the start.
        shares: whether every score is a share of 1; the retention of a run on a file may be larger.
    """
    names = {"task": "task score", "retention": "base skills kept"}
    shown = table[table["role"].isin(names)]
    shown = shown.assign(what=shown["role"].map(names))
    scale = alt.Scale(domain=[0, 1.02], nice=False) if shares else alt.Scale(zero=True)
    chart = alt.Chart().encode(
        x=_step_axis(longest),
        y=alt.Y("score:Q", title="Score", scale=scale, axis=alt.Axis(format=".0%")),
        color=_by_run(alt.Color, table),
        tooltip=["run:N", "step:Q", alt.Tooltip("what:N", title="score of"), alt.Tooltip("score:Q", format=".1%")],
    )
    dash = alt.StrokeDash(
        "what:N",
        scale=alt.Scale(domain=list(names.values()), range=[[1, 0], [5, 4]]),
        legend=alt.Legend(
            title=None, orient="bottom", symbolType="stroke", symbolSize=300, symbolStrokeColor="#8A8A8A"
        ),
    )
    layers = [
        chart.mark_line(strokeWidth=2).encode(strokeDash=dash),
        chart.mark_point(size=36, opacity=1, filled=True).encode(shape=_by_run(alt.Shape, table, _SHAPES)),
    ]
    data = _plain(shown[["run", "step", "what", "score"]])
    return alt.LayerChart(data=data, layer=layers, height=_HEIGHT)


def loss_finding(table: pd.DataFrame) -> str:
    """Return a sentence on the loss of each run, up to the last step that all have reached.

    Args:
        table: from `step_table`.
    """
    if table.empty:
        return "Task loss: no step yet."
    reached = int(table.groupby("run", observed=True)["step"].max().min())
    words = []
    for run in adapter_colors(table["run"]):
        part = table[(table["run"] == run) & (table["step"] <= reached)]
        if len(part):
            first, last = part["task_loss"].iloc[0], part["task_loss"].tail(5).mean()
            words.append(f"{run} from {two_digits(first)} to {two_digits(last)}")
    return f"Task loss by step {reached}: {', '.join(words)}."


def score_finding(table: pd.DataFrame) -> str:
    """Return a sentence on the task score and the retention of each run, at the last step at which all were scored.

    Args:
        table: from `score_table`.
    """
    if table.empty:
        return "Not scored yet."
    together = set.intersection(*(set(part["step"]) for _, part in table.groupby("run", observed=True)))
    if not together:
        return "The runs have not been scored at a common step yet."
    step = max(together)
    words = []
    for run in adapter_colors(table["run"]):
        part = table[(table["run"] == run) & (table["step"] == step)]
        part = part.groupby("role").tail(1).set_index("role")["score"]
        if "task" in part:
            text = f"{run} scores {percent(part['task'])}"
            words.append(f"{text} and keeps {percent(part['retention'])} of the base" if "retention" in part else text)
    return f"At step {step} {'; '.join(words)}."


def _step_axis(longest: int) -> alt.X:
    # Fixed from the start: a moving axis would redraw the whole chart.
    return alt.X("step:Q", title="Step", scale=alt.Scale(domain=[0, longest], nice=False))


def _by_run(channel: type[Any], table: pd.DataFrame, looks: Sequence[Any] = ()) -> Any:
    """Return a channel that tells the runs apart.

    Args:
        channel: of altair.
        table: with a column `run`.
        looks: one for each run, in the order in which they were chosen; its color by default.
    """
    colors = adapter_colors(table["run"])
    legend = alt.Legend(title=None, orient="top", labelLimit=0, symbolType="stroke", symbolSize=300)
    return channel(
        "run:N",
        scale=alt.Scale(domain=list(colors), range=list(looks or colors.values())),
        legend=legend if len(colors) > 1 and channel is not alt.Shape else None,
    )


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without categories, whose order the scales already have."""
    return table.astype({"run": str})
