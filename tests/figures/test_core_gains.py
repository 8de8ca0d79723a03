"""Gains: the relative change of each principal singular value."""

import pandas as pd
import pytest

from hiplora import figures

from .conftest import K
from .reading import of, same, traces


@pytest.mark.parametrize("adapter", ["leading", "random", "silent"])
def test_gains_draws_the_gain_of_the_principal_directions(directions: pd.DataFrame, adapter: str) -> None:
    bar = traces(figures.gains(directions, K))[adapter]
    head = of(directions, adapter)[:K]
    same(bar.x, head["direction"])
    same(bar.y, head["gain"])


def test_gains_tells_the_change_on_hovering(directions: pd.DataFrame) -> None:
    same(traces(figures.gains(directions, K))["random"].customdata, of(directions, "random")[:K]["core_change"])


@pytest.mark.parametrize(("gains", "words"), [([0.1, -0.25, 0.2], "-25 %, on direction 2"),
                                              ([0.1, -0.25, 0.3], "30 %, on direction 3")])  # fmt: skip
def test_gains_title_is_the_largest_in_size_with_its_sign(gains: list[float], words: str) -> None:
    table = pd.DataFrame({"adapter": "only", "direction": [1, 2, 3], "gain": gains, "core_change": 1.0})
    assert f" is {words} (only)" in figures.gains(table, 3).layout.title.text


def test_gains_title_passes_over_directions_beyond_k() -> None:
    table = pd.DataFrame({"adapter": "only", "direction": [1, 2, 3], "gain": [0.1, 0.2, 9.0], "core_change": 1.0})
    assert "20 %, on direction 2" in figures.gains(table, 2).layout.title.text


def test_adapter_keeps_its_colour_where_an_earlier_one_has_no_row(directions: pd.DataFrame) -> None:
    order = pd.CategoricalDtype(["leading", "random", "silent"])
    drawn = figures.gains(directions.astype({"adapter": order}), K)
    without = directions[directions["adapter"] != "leading"].astype({"adapter": order})
    alone = figures.gains(without, K)
    assert [trace.name for trace in alone.data] == ["random", "silent"]
    assert alone.data[0].marker.color == drawn.data[1].marker.color
