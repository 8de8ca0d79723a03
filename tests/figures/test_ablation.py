"""Edits: one mark for the edit and one for its control, in each panel."""

import numpy as np
import pandas as pd
import pytest

from hiplora import figures

from .reading import numbers, traces

TABLE = pd.DataFrame(
    [
        ["a", "as trained", 1.0, 1.0, 0.90, 1.0, 0.90, 0.0, 0.0, 0.0],
        ["a", "without PP", 0.97, 1.0, 0.97, 1.0, 0.92, 0.05, 0.04, 0.06],
        ["a", "RR alone", 0.7, 0.4, 1.0, 1.0, 0.98, 0.02, 0.01, 0.03],
    ],
    columns=["adapter", "edit", "norm", "task_score", "retention", "control_task_score", "control_retention", "gain",
             "gain_low", "gain_high"],
)  # fmt: skip


def test_each_edit_has_a_mark_beside_its_control() -> None:
    figure = figures.block_effects(TABLE)
    own = [trace for trace in figure.data if trace.name == "the edit"]
    control = [trace for trace in figure.data if trace.name and trace.name.startswith("its control")]
    assert numbers(own[0].x) == pytest.approx([0.90, 0.97, 1.0])
    assert numbers(control[0].x) == pytest.approx([0.90, 0.92, 0.98])
    assert numbers(own[1].x) == pytest.approx([1.0, 1.0, 0.4])
    assert list(figure.layout.yaxis.ticktext) == ["as trained", "without PP", "RR alone"]
    assert traces(figure)["the edit"].marker.color == figures.adapter_colors(TABLE["adapter"])["a"]


def test_the_title_names_the_best_edit_that_keeps_the_task_and_beats_its_control() -> None:
    title = figures.block_effects(TABLE).layout.title.text.replace("\N{NO-BREAK SPACE}", " ")
    assert title == (
        "Without PP, a keeps 97 % of the base instead of 90 %, and its task; scaled to the same norm it keeps 92 %."
    )


def test_the_title_says_so_where_no_edit_beats_its_control() -> None:
    title = figures.block_effects(TABLE.assign(gain_low=-0.01)).layout.title.text
    assert title == "No part of a can go for the base's sake without losing more than its size accounts for."


def test_without_a_task_there_is_one_panel() -> None:
    figure = figures.block_effects(TABLE.assign(task_score=np.nan, control_task_score=np.nan))
    assert [trace.name for trace in figure.data if trace.name].count("the edit") == 1
