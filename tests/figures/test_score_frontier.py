"""The frontier of scores: marks by method, chosen adapters in color, a line through what no other beats."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from hiplora import figures
from hiplora.figures import style
from hiplora.measures import frontier_table

from .reading import filled_in, numbers

FRONTIER = frontier_table(
    pd.DataFrame(
        [
            ["old", "LoRA", "swap", "", 0.99, 0.80],
            ["a", "LoRA", "swap", "", 1.00, 0.90],
            ["b", "HiP-LoRA", "swap", "λ = 10", 0.95, 0.97],
            ["c", "HiP-LoRA", "swap", "ε = 0.05", 0.90, 0.95],
        ],
        columns=["adapter", "method", "task", "budget", "task_score", "retention"],
    ).assign(seed=0.0, steps=300.0, relative_norm=0.1)
)


def points(figure: go.Figure) -> dict[str, tuple[float, float, str, float, str]]:
    """Return `{adapter: (x, y, symbol, size, colour)}` of the marks."""
    found = {}
    for trace in figure.data:
        if trace.customdata is not None:
            for i, row in enumerate(trace.customdata):
                place = float(numbers(trace.x)[i]), float(numbers(trace.y)[i])
                found[row[0]] = (*place, trace.marker.symbol, trace.marker.size[i], trace.marker.color[i])
    return found


def test_frontier_draws_task_score_against_retention() -> None:
    drawn = points(figures.frontier(FRONTIER, ["a", "b"]))
    for row in FRONTIER.to_dict("records"):
        assert drawn[row["adapter"]][:2] == pytest.approx((row["task_score"], row["retention"]))


def test_frontier_marks_methods_and_emphasises_the_chosen() -> None:
    figure = figures.frontier(FRONTIER, ["b", "a"])
    drawn, colors = points(figure), figures.adapter_colors(pd.Series(["b", "a"]))
    assert {name: mark[2] for name, mark in drawn.items()} == dict.fromkeys(["old", "a"], "circle") | dict.fromkeys(
        ["b", "c"], "diamond"
    )
    assert drawn["a"][3] > drawn["old"][3]
    assert (drawn["b"][4], drawn["a"][4], drawn["old"][4]) == (colors["b"], colors["a"], style.BASE)
    assert [note.text for note in figure.layout.annotations] == ["a", "b"]
    shown = [trace for trace in figure.data if trace.showlegend is not False]
    assert [trace.name for trace in shown] == ["Pareto-optimal", "LoRA", "HiP-LoRA"]
    assert {trace.marker.color for trace in shown[1:]} == {style.BASE}


def test_frontier_joins_what_no_other_beats() -> None:
    line = figures.frontier(FRONTIER).data[0]
    assert list(numbers(line.x)) == pytest.approx([0.95, 1.0])
    assert list(numbers(line.y)) == pytest.approx([0.97, 0.9])
    title = figures.frontier(FRONTIER, ["b", "c"]).layout.title.text
    assert title == "Pareto-optimal on swap: b and a; not: c."


@pytest.mark.parametrize("spread", [0.0, 0.001, 0.3])
def test_frontier_axes_tell_ticks_apart_and_do_not_reach_beyond_what_can_be_scored(spread: float) -> None:
    close = FRONTIER.assign(task_score=1.0, retention=np.linspace(1 - spread, 1, len(FRONTIER)))
    figure = figures.frontier(close, ["a"])
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        low, high = axis.range
        assert high - low >= 0.01
        assert 1 < high < 1.02
    assert figure.layout.xaxis.tickformat == ".1~%"


def test_frontier_tells_how_each_was_made() -> None:
    drawn = [trace for trace in figures.frontier(FRONTIER).data if trace.customdata is not None]
    said = {row[0]: filled_in(trace.hovertemplate, row) for trace in drawn for row in trace.customdata}
    assert "task swap" in said["c"]
    assert said["c"].endswith("300 steps, seed 0, ε = 0.05<br>relative norm 0.10<extra></extra>")
    assert said["a"].endswith("300 steps, seed 0, no budget<br>relative norm 0.10<extra></extra>")


def test_frontier_says_when_some_trained_longer() -> None:
    said = [
        figures.frontier(FRONTIER.assign(steps=steps)).layout.title.subtitle.text
        for steps in ([300.0, 300, np.nan, 300], [20.0, 300, np.nan, 300])
    ]
    assert "equally long" not in said[0]
    assert said[1].endswith("Not all trained equally long: 20 to 300 steps.")
