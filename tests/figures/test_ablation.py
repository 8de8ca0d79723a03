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
).assign(
    keeps_task=[True, True, False], damage_per_energy=[0.1, 0.03, 0.2], damage_per_energy_low=[0.08, 0.02, 0.1],
    damage_per_energy_high=[0.12, 0.04, 0.3], control_damage_per_energy=[0.1, 0.08, 0.04],
)  # fmt: skip
LOSSES = TABLE.rename(columns=lambda name: name.replace("retention", "kept_loss").replace("task_score", "task_loss"))
LOSSES = LOSSES.assign(
    kept_loss=[2.9, 2.7, 2.6], control_kept_loss=[2.9, 2.8, 2.65], task_loss=[1.0, 1.01, 1.4], base_kept_loss=2.5,
    control_task_loss=[1.0, 1.0, 1.1], base_task_loss=2.0, task_text="task.txt, 2,048 tokens",
    kept_text="Python's documentation, 2,048 tokens", caveat="",
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


def test_losses_are_in_nats_and_lower_is_better() -> None:
    figure = figures.block_effects(LOSSES)
    assert figure.layout.xaxis.title.text == "Loss on what is kept (nats per token)"
    assert figure.layout.xaxis2.title.text == "Loss on the task (nats per token)"
    assert figure.layout.title.text.replace("\N{NO-BREAK SPACE}", " ") == (
        "Without PP, a reads the kept text at 2.700 nats a token instead of 2.900 nats, and keeps its task; scaled to "
        "the same norm at 2.800 nats."
    )
    assert [line.x0 for line in figure.layout.shapes] == [2.5, 2.0]


def test_damage_per_energy_has_an_interval_and_a_control() -> None:
    figure = figures.energy_damage(TABLE)
    found = traces(figure)["the edit, with its 95 % interval"]
    assert numbers(found.x) == pytest.approx([0.1, 0.03, 0.2])
    assert numbers(found.error_x.array) == pytest.approx([0.02, 0.01, 0.1])
    assert figure.layout.title.text.replace("\N{NO-BREAK SPACE}", " ") == (
        "Alone, RR costs the base the most per unit of energy: 20 %, 2.0 times that of the whole update."
    )
    assert figures.energy_damage(LOSSES).layout.xaxis.title.text.endswith("(nats per token)")


def test_an_edit_without_energy_has_no_damage_to_show() -> None:
    figure = figures.energy_damage(TABLE.assign(damage_per_energy=[0.1, np.nan, 0.2]))
    assert list(figure.layout.yaxis.ticktext) == ["as trained", "RR alone"]


def test_without_a_task_there_is_one_panel() -> None:
    figure = figures.block_effects(TABLE.assign(task_score=np.nan, control_task_score=np.nan))
    assert [trace.name for trace in figure.data if trace.name].count("the edit") == 1
