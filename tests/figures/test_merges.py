"""Merges: marks, whiskers and controls where the tables say, and the finding in words."""

import numpy as np
import pandas as pd
import pytest

from hiplora import figures

from .reading import level_lines, numbers, panel, traces

ORDER = pd.CategoricalDtype(["a", "b", "all"])


def outcome(name, kind, task, least, kept, norm=1.0, control=(np.nan, np.nan), gain=0.02):
    return {
        "outcome": name, "kind": kind, "adapter": "all", "task_kept": task, "task_kept_low": task - 0.01,
        "task_kept_high": task + 0.01, "least_task_kept": least, "retention": kept, "retention_low": kept - 0.01,
        "retention_high": kept + 0.01, "kept_worst_single": 0.8, "norm": norm, "control_task_kept": control[0],
        "control_retention": control[1], "task_gain_low": gain - 0.01, "task_gain_high": gain + 0.01,
        "gain_low": gain - 0.01, "gain_high": gain + 0.01,
    }  # fmt: skip


OUTCOMES = pd.DataFrame(
    [
        outcome("base", "base", 0.0, 0.0, 1.0, 0.0),
        outcome("a", "single", 0.5, 0.0, 0.9, 0.7),
        outcome("b", "single", 0.5, 0.0, 0.8, 0.7),
        outcome("sum", "merge", 0.6, 0.4, 0.6, 1.0, (0.6, 0.6)),
        outcome("ties", "merge", 0.8, 0.7, 0.7, 0.8, (0.75, 0.65)),
    ]
).astype({"adapter": ORDER})


def words(figure):
    return figure.layout.title.text.replace("\N{NO-BREAK SPACE}", " ")


def test_each_way_has_a_mark_with_a_whisker_down_to_its_least_task_and_a_control() -> None:
    figure = figures.merge_outcomes(OUTCOMES)
    found = traces(figure)
    assert (found["ties"].x[0], found["ties"].y[0]) == (0.7, 0.8)
    assert found["ties"].error_y.arrayminus[0] == pytest.approx(0.1)
    control = found["controls"]
    assert numbers(control.x) == pytest.approx([0.6, 0.65])
    assert found["a alone"].marker.color == figures.adapter_colors(OUTCOMES["adapter"])["a"]
    assert [shape.x0 for shape in figure.layout.shapes] == [0.8]


def test_the_title_names_the_way_that_keeps_most_of_the_tasks_beside_its_control() -> None:
    assert words(figures.merge_outcomes(OUTCOMES)) == (
        "ties keeps the most of the tasks: 80 % on average, at least 70 %, and 70 % of the base; the sum scaled to its "
        "norm 75 % and 65 %."
    )
    unsure = OUTCOMES.assign(task_gain_low=-0.01, gain_low=-0.01)
    assert words(figures.merge_outcomes(unsure)).endswith("75 % and 65 %, which these examples cannot tell apart.")


def test_of_ways_that_keep_as_much_of_the_tasks_the_title_names_the_one_that_keeps_most_of_the_base() -> None:
    equal = OUTCOMES.assign(task_kept=OUTCOMES["task_kept"].replace({0.6: 0.8}))
    assert words(figures.merge_outcomes(equal)).startswith(
        "2 ways keep the most of the tasks, ties of them the most of the base: 80 % on average, at least 70 %"
    )


def test_a_way_has_one_look_in_every_figure() -> None:
    scatter, fails = figures.merge_outcomes(OUTCOMES), figures.merge_fail(FAILS)
    assert traces(scatter)["ties"].marker.color == traces(fails)["ties"].line.color
    assert traces(scatter)["ties"].marker.symbol == traces(fails)["ties"].marker.symbol


def fails(how, varied, threshold, allowance, count):
    return [how, varied, threshold, allowance, count, 4, count / 4]


FAILS = pd.DataFrame(
    [
        fails("sum", "task", 0.5, 0.05, 2), fails("sum", "task", 0.9, 0.05, 3),
        fails("sum", "base", 0.9, 0.05, 3), fails("sum", "base", 0.9, 0.2, 1),
        fails("ties", "task", 0.5, 0.05, 0), fails("ties", "task", 0.9, 0.05, 2),
        fails("ties", "base", 0.9, 0.05, 2), fails("ties", "base", 0.9, 0.2, 2),
    ],
    columns=["outcome", "varied", "threshold", "allowance", "fails", "merges", "merge_fail"],
)  # fmt: skip


def test_merge_fail_is_drawn_over_the_thresholds_of_tasks_and_of_the_base() -> None:
    figure = figures.merge_fail(FAILS)
    by_task, by_base = (
        {trace.name: trace for trace in figure.data if (trace.xaxis or "x") == panel(figure, title)}
        for title in ("over the tasks", "over the base")
    )
    assert numbers(by_task["sum"].x) == pytest.approx([0.5, 0.9])
    assert numbers(by_task["sum"].y) == pytest.approx([0.5, 0.75])
    assert numbers(by_base["ties"].y) == pytest.approx([0.5, 0.5])
    assert words(figure) == (
        "Where each task must keep 90 % and the base may lose 5 points more, ties fails least, in 2 of 4 merges; the "
        "plain sum in 3."
    )
    assert "That is few" in figure.layout.title.subtitle.text


def balance_of_two() -> pd.DataFrame:
    """Return a merge at three weights, in which each task gains what the other loses."""
    rows = []
    for first, second, a, b, kept in ((1, 0, 1.0, 0.0, 0.9), (1, 1, 0.7, 0.6, 0.8), (0, 1, 0.0, 1.0, 0.85)):
        for adapter, share in (("a", a), ("b", b), ("all", (a + b) / 2)):
            row = outcome("ties", "merge", share, min(a, b), kept)
            rows.append(row | {"adapter": adapter, "first_weight": first, "second_weight": second})
    return pd.DataFrame(rows).astype({"adapter": ORDER})


def test_the_balance_has_a_line_for_each_task_and_for_the_base() -> None:
    figure = figures.merge_balance(balance_of_two(), 2)
    found = traces(figure)
    assert numbers(found["task of b"].y) == pytest.approx([0.0, 0.6, 1.0])
    assert numbers(found["base skills"].y) == pytest.approx([0.9, 0.8, 0.85])
    assert list(figure.layout.xaxis.ticktext) == ["1 : 0", "1 : 1", "0 : 1"]
    assert [shape.x0 for shape in figure.layout.shapes] == [2]
    assert words(figure) == "At weights 1 : 1 both tasks keep the most, at least 60 %, with 80 % of the base."


CONFLICTS = pd.DataFrame(
    [
        {
            "module": f"layers.{layer}.q", "layer": layer, "kind": "q", "first": "a", "second": second, "block": block,
            "cosine": cosine, "null_sd": 0.01, "sign": sign,
        }
        for second in ("b", "c")
        for layer, cosine, sign in ((0, 0.2, "reinforce"), (1, 0.0, "chance"))
        for block in ("all", "pp", "pr", "rp", "rr")
    ]
)  # fmt: skip


def test_conflicts_stand_beside_what_independent_updates_have() -> None:
    figure = figures.merge_conflicts(CONFLICTS, "a", "b")
    axis = panel(figure, "PP")
    marks, null = (
        next(trace for trace in figure.data if (trace.xaxis or "x") == axis and trace.mode == mode)
        for mode in ("markers", "lines")
    )
    assert numbers(marks.y) == pytest.approx([0.2, 0.0])
    assert numbers(null.y)[:2] == pytest.approx([-0.0196, 0.0196])
    assert len(level_lines(figure)) == 4
    assert words(figure) == (
        "a and b clearly reinforce each other in 1 of 2 modules and cancel in 0; in principal blocks 1 and 0, in "
        "residual ones 1 and 0."
    )


def predictions():
    """Return three ways of which the norm says in what order they lose; the principal share nothing, being constant."""
    ranks = {"relative_norm": (1.0, 0.9, 1.0), "pp": (np.nan,) * 3, "enrichment": (0.1, -0.8, 0.9),
             "max_tightness": (0.2, -0.7, 0.9)}  # fmt: skip
    values = {
        "relative_norm": [0.3, 0.2, 0.1],
        "pp": [0.1] * 3,
        "enrichment": [3.0, 1, 2],
        "max_tightness": [1.0, 3, 1],
    }
    return pd.concat(
        [
            pd.DataFrame({
                "indicator": name, "value": values[name], "outcome": ["sum", "core", "ties"], "task_kept": 0.5,
                "retention": [0.4, 0.5, 0.6], "lost": [0.6, 0.5, 0.4],
                "rank_correlation": rank, "low": low, "high": high, "ways": 3,
            })
            for name, (rank, low, high) in ranks.items()
        ],
        ignore_index=True,
    )  # fmt: skip


def test_each_way_stands_where_its_geometry_and_its_measured_loss_put_it() -> None:
    figure = figures.merge_predictions(predictions())
    ties = [trace for trace in figure.data if trace.name == "ties"]
    assert [(trace.x[0], trace.y[0]) for trace in ties] == [(0.1, 0.6), (0.1, 0.6), (2.0, 0.6), (1.0, 0.6)]
    assert [note.text for note in figure.layout.annotations][:2] == ["1.00<br>(0.90 to 1.00)", "–"]


def test_the_title_says_which_number_ranked_the_ways() -> None:
    assert words(figures.merge_predictions(predictions())) == (
        "Relative norm ranks the ways by what they lose of the base; highest tightness and enrichment do not clearly."
    )
    unsure = predictions().assign(low=-0.1)
    assert words(figures.merge_predictions(unsure)).startswith("No number of the geometry clearly ranks")
    unknown = predictions().assign(low=np.nan)
    assert words(figures.merge_predictions(unknown)).startswith("Too few ways are scored, or all lose the same")
