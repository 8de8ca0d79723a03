"""Cards: read leniently, written whole."""

from pathlib import Path

import pytest

from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.paths import demo_adapters, demo_base


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    card = Card(
        task="swap", seed=0, task_score=0.5, skills={"copy": 1.0}, shadow_prices={"a": -1.0}, more={"locality": 0.25}
    )
    card.write(tmp_path)
    assert Card.read(tmp_path) == card


@pytest.mark.parametrize("folder", [demo_base(), *demo_adapters()], ids=lambda path: path.name)
def test_shipped_cards_hold_nothing_that_is_dropped(folder: Path) -> None:
    card = Card.read(folder)
    assert card.skills
    assert Card.of(card.to_dict()) == card


def test_a_folder_without_a_card_has_an_empty_one(tmp_path: Path) -> None:
    assert Card.read(tmp_path) == Card()


@pytest.mark.parametrize("value", [True, "0.5", None, float("nan"), float("inf"), 10**400, [1], {}])
def test_what_is_not_a_finite_number_is_not_a_score(value: object) -> None:
    card = Card.of({"task_score": value, "skills": {"copy": value, "rev": 1.0}})
    assert card.task_score is None
    assert card.skills == {"rev": 1.0}


@pytest.mark.parametrize("value", [1, [], "text"])
def test_skills_that_are_not_an_object_are_none(value: object) -> None:
    assert Card.of({"skills": value, "shadow_prices": value}) == Card()


def test_a_damaged_card_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(HiploraError, match=r"card\.json is not valid JSON"):
        Card.read(tmp_path)
