"""The energy a hard budget would have cut."""

import numpy as np
import pandas as pd
import pytest

from hiplora import figures
from hiplora.figures import style
from hiplora.measures import cut_table

from .reading import same, traces


@pytest.fixture
def cuts() -> pd.DataFrame:
    """Two modules a layer of unequal energy, so that a mean of shares is not the share of the sums."""
    return pd.DataFrame(
        {
            "adapter": ["big"] * 4 + ["small"] * 4,
            "layer": [0, 0, 1, 1] * 2,
            "energy": [100.0, 300.0, 50.0, 50.0, 1.0, 3.0, 4.0, 4.0],
            "removed": [40.0, 0.0, 5.0, 15.0, 0.0, 1.0, 0.0, 0.0],
        }
    ).astype({"layer": "Int64"})


@pytest.mark.parametrize(("adapter", "shares"), [("big", [0.1, 0.2]), ("small", [0.25, 0.0])])
def test_bars_are_removed_over_energy_of_the_layer(cuts: pd.DataFrame, adapter: str, shares: list[float]) -> None:
    bar = traces(figures.cut_by_layer(cuts))[adapter]
    same(bar.x, pd.Series([0, 1]))
    same(bar.y, pd.Series(shares))


def test_cut_title_is_removed_over_energy_of_the_adapter(cuts: pd.DataFrame) -> None:
    title = figures.cut_by_layer(cuts).layout.title.text
    assert f"{style.percent(60 / 500)} of big, {style.percent(1 / 12)} of small" in title


def test_cuts_measured_are_cuts_drawn(layers: pd.DataFrame) -> None:
    table = cut_table(layers)
    bar = traces(figures.cut_by_layer(table))["random"]
    part = table[table["adapter"] == "random"]
    for layer, share in zip(bar.x, bar.y, strict=True):
        rows = part[part["layer"] == layer]
        assert share == pytest.approx(np.average(rows["removed_share"], weights=rows["energy"]))


def test_nothing_is_cut_from_an_update_of_zeros(layers: pd.DataFrame) -> None:
    assert "nothing of silent" in figures.cut_by_layer(cut_table(layers)).layout.title.text


def test_a_budget_that_cuts_nothing_is_a_sentence(cuts: pd.DataFrame) -> None:
    figure = figures.cut_by_layer(cuts.assign(removed=0.0))
    assert not figure.data
    assert figure.layout.title.text == "A hard budget would remove nothing: every module is within it."
