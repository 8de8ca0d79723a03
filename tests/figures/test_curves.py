"""Curves that grow: what they draw, on axes that hold still."""

from typing import Any

import altair as alt
import pandas as pd
import pytest

from hiplora.figures import adapter_colors, curves

RUNS = pd.CategoricalDtype(["plain", "ours", "waits"])
STEPS = pd.DataFrame({"run": ["plain", "plain", "ours"], "step": [1, 2, 1], "task_loss": [8.0, 4.0, 0.0]}).astype(
    {"run": RUNS}
)
SCORES = pd.DataFrame(
    {
        "run": ["plain", "plain", "plain", "plain", "ours"],
        "step": [1, 1, 2, 2, 1],
        "role": ["task", "retention", "task", "retention", "task"],
        "score": [0.25, 0.875, 0.5, 0.75, 0.125],
    }
).astype({"run": RUNS})


def spec(chart: alt.Chart | alt.LayerChart) -> dict[str, Any]:
    """Return what a chart draws with, without what it draws."""
    return {name: value for name, value in chart.to_dict().items() if name not in ("data", "datasets")}


def drawn(chart: alt.Chart | alt.LayerChart) -> pd.DataFrame:
    (rows,) = chart.to_dict()["datasets"].values()
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("draw", "table"), [(curves.loss_curves, STEPS), (curves.score_curves, SCORES)], ids=["loss", "score"]
)
def test_axes_and_colors_do_not_move_while_points_come(draw: Any, table: pd.DataFrame) -> None:
    first, later = (spec(draw(rows, 10)) for rows in (table[:1], table))
    assert first == later
    encoding = later.get("encoding") or later["layer"][0]["encoding"]
    assert encoding["x"]["scale"]["domain"] == [0, 10]
    colors = adapter_colors(table["run"])
    assert encoding["color"]["scale"] == {"domain": list(colors), "range": list(colors.values())}


def test_loss_of_zero_is_drawn_at_the_foot_of_the_logarithmic_axis() -> None:
    rows = drawn(curves.loss_curves(STEPS, 10))
    assert rows["task_loss"].tolist() == [8.0, 4.0, 0.0]
    assert rows["shown"].tolist() == [8.0, 4.0, 1e-6]


def test_scores_are_told_apart_as_learned_and_kept() -> None:
    skill = pd.DataFrame({"run": ["ours"], "step": [1], "role": ["skill"], "score": [0.1]})
    rows = drawn(curves.score_curves(pd.concat([SCORES, skill]).astype({"run": RUNS}), 10))
    assert rows["what"].tolist() == ["task score", "base skills kept"] * 2 + ["task score"]
    assert rows["score"].tolist() == SCORES["score"].tolist()


def test_scores_beyond_one_have_an_axis_that_reaches_them() -> None:
    shares, other = (
        spec(curves.score_curves(SCORES, 10, shares=shares))["layer"][0]["encoding"]["y"]["scale"]
        for shares in (True, False)
    )
    assert shares["domain"] == [0, 1.02]
    assert "domain" not in other


def test_one_run_alone_needs_no_legend() -> None:
    alone = STEPS[STEPS["run"] == "ours"].astype({"run": pd.CategoricalDtype(["ours"])})
    assert spec(curves.loss_curves(alone, 10))["encoding"]["color"]["legend"] is None
    assert spec(curves.loss_curves(STEPS, 10))["encoding"]["color"]["legend"] is not None


def test_loss_finding_says_where_each_run_began_and_stands() -> None:
    assert curves.loss_finding(STEPS[:0]) == "Task loss: no step yet."
    steps = pd.DataFrame({"run": "plain", "step": range(1, 8), "task_loss": [8.0, 9, 3, 3, 2, 1, 1]})
    assert curves.loss_finding(steps) == "Task loss by step 7: plain from 8.0 to 2.0."


def test_losses_are_compared_up_to_the_last_step_that_all_runs_reached() -> None:
    assert curves.loss_finding(STEPS) == "Task loss by step 1: plain from 8.0 to 8.0, ours from 0 to 0."


def test_scores_are_compared_at_the_last_step_at_which_all_runs_were_scored() -> None:
    assert curves.score_finding(SCORES[:0]) == "Not scored yet."
    said = curves.score_finding(SCORES).replace("\N{NO-BREAK SPACE}", " ")
    assert said == "At step 1 plain scores 25 % and keeps 88 % of the base; ours scores 12 %."
    apart = SCORES.assign(step=[1, 1, 2, 2, 3])
    assert curves.score_finding(apart) == "The runs have not been scored at a common step yet."


def test_last_score_of_a_run_alone_is_told() -> None:
    said = curves.score_finding(SCORES[SCORES["run"] == "plain"]).replace("\N{NO-BREAK SPACE}", " ")
    assert said == "At step 2 plain scores 50 % and keeps 75 % of the base."


def test_smoothed_loss_is_the_debiased_mean_of_tensorboard_run_by_run() -> None:
    losses = {"plain": [8.0, 1.0, 4.0, 2.0], "ours": [3.0, 5.0]}
    table = pd.concat([pd.DataFrame({"run": run, "task_loss": values}) for run, values in losses.items()])
    expected = []
    for values in losses.values():
        last = 0.0
        for count, value in enumerate(values, start=1):
            last = 0.6 * last + 0.4 * value
            expected.append(last / (1 - 0.6**count))
    assert curves.smoothed(table.reset_index(drop=True), 0.6).tolist() == pytest.approx(expected, rel=1e-12)


def test_raw_losses_stay_faint_behind_the_smoothed_ones() -> None:
    chart = curves.loss_curves(STEPS, 10, 0.5)
    rows, (behind, front) = drawn(chart), spec(chart)["layer"]
    assert rows["task_loss"].tolist() == [8.0, 4.0, 0.0]
    assert rows["smoothed"].tolist() == pytest.approx([8.0, 16 / 3, 1e-6])
    assert (behind["encoding"]["y"]["field"], front["encoding"]["y"]["field"]) == ("shown", "smoothed")
    assert behind["mark"]["opacity"] < front["mark"].get("opacity", 1)


def test_runs_differ_by_more_than_color() -> None:
    dashes = spec(curves.loss_curves(STEPS, 10))["encoding"]["strokeDash"]["scale"]
    assert dashes["domain"] == list(adapter_colors(STEPS["run"]))
    shapes = spec(curves.score_curves(SCORES, 10))["layer"][1]["encoding"]["shape"]["scale"]
    assert shapes["range"][:2] == ["circle", "diamond"]
