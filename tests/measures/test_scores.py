"""Cards of adapters as tables: numbers where a card says them, nothing where it does not."""

import json

import numpy as np
import pandas as pd
import pytest

from hiplora.adapters import read_adapter, read_updates
from hiplora.card import Card
from hiplora.measures import card_table, frontier_table, skill_table
from hiplora.paths import demo_base


@pytest.fixture
def shipped():
    return read_updates(["swap-lora", "swap-hiplora", "edit-lora"])


def test_a_card_s_numbers_stand_in_its_row(shipped):
    table = card_table(shipped, titles={"hiplora": "ours"})
    assert table["adapter"].tolist() == ["swap-lora", "swap-hiplora", "edit-lora"]
    assert table["method"].tolist() == ["LoRA", "ours", "LoRA"]
    assert table["task"].tolist() == ["swap", "swap", "edit"]
    assert table["budget"].tolist() == ["", "λ = 10.0", ""]
    for column in ("task_score", "retention", "trainable_parameters", "relative_norm", "seed", "steps"):
        assert table[column].tolist() == [getattr(adapter.card, column) for adapter in shipped]


def test_parameters_are_compared_with_the_first(shipped):
    first, second = (adapter.card.trainable_parameters for adapter in shipped[:2])
    assert card_table(shipped)["parameter_difference"].tolist() == pytest.approx([0, second / first - 1, 0])


def test_an_adapter_without_a_card_has_a_row_without_scores(shipped, lora_folder):
    table = card_table([*shipped, read_adapter(lora_folder)])
    assert table.iloc[3][["task_score", "retention", "parameter_difference"]].isna().all()
    assert table.iloc[3]["method"] == "LoRA"
    assert table["task_score"].notna().sum() == 3


def test_other_cards_may_take_the_place_of_the_adapters_own(lora_folder):
    table = card_table([read_adapter(lora_folder)], [Card(task_score=0.25)])
    assert table["task_score"].tolist() == [0.25]
    assert np.isnan(table["retention"].iloc[0])


def test_skills_stand_beside_what_the_base_scored(shipped):
    table = skill_table(Card.read(demo_base()), shipped)
    before = json.loads((demo_base() / "card.json").read_text())["skills"]
    one = table[(table["adapter"] == "swap-hiplora") & (table["role"] == "skill")].set_index("skill")
    assert one["score"].to_dict() == shipped[1].card.skills
    assert one["base"].to_dict() == before
    task = table[(table["adapter"] == "swap-hiplora") & (table["role"] == "task")].iloc[0]
    assert (task["skill"], task["score"]) == ("swap", shipped[1].card.task_score)


def test_without_scores_there_are_no_rows_but_the_order_is_kept(lora_folder):
    table = skill_table(Card(), [read_adapter(lora_folder)])
    assert table.empty
    assert table["adapter"].cat.categories.tolist() == ["plain-lora"]


def frontier(*points):
    table = pd.DataFrame([{"task": task, "task_score": x, "retention": y} for task, x, y in points])
    return frontier_table(table)["on_frontier"].tolist()


def test_on_the_frontier_is_what_no_other_beats():
    points = [("a", 0.9, 0.9), ("a", 1.0, 0.8), ("a", 0.95, 0.7), ("a", 0.8, 0.95), ("a", 0.8, 0.9)]
    assert frontier(*points) == [True, True, False, True, False]


def test_equals_do_not_beat_each_other():
    assert frontier(("a", 1.0, 0.9), ("a", 1.0, 0.9)) == [True, True]


def test_tasks_have_frontiers_of_their_own():
    assert frontier(("a", 1.0, 0.9), ("b", 0.5, 0.5)) == [True, True]


def test_what_has_no_score_is_not_on_the_map():
    assert len(frontier(("a", 1.0, 0.9), ("a", float("nan"), 0.9), (None, 1.0, 0.9))) == 1
