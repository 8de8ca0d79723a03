"""The singular values of a weight."""

import pandas as pd
import pytest

from hiplora import figures
from hiplora.figures import style

from .conftest import K
from .reading import of, same


def test_singular_values_are_drawn_once_whatever_the_number_of_adapters(directions: pd.DataFrame) -> None:
    (line,) = figures.singular_values(directions, K).data
    same(line.x, of(directions, "random")["direction"])
    same(line.y, of(directions, "random")["sigma"])


@pytest.mark.parametrize("k", [1, K, 7])
def test_singular_values_title_says_the_energy_of_the_top_k(directions: pd.DataFrame, k: int) -> None:
    sigma = of(directions, "leading")["sigma"].to_numpy()
    share = (sigma[:k] ** 2).sum() / (sigma**2).sum()
    title = figures.singular_values(directions, k).layout.title.text
    assert f"top {k} directions hold {style.percent(share)} " in title


def test_singular_values_title_counts_energy_beyond_the_directions_at_hand(directions: pd.DataFrame) -> None:
    sigma = of(directions, "leading")["sigma"].to_numpy()
    share = (sigma[:K] ** 2).sum() / (sigma**2).sum()
    some = directions[directions["direction"] <= K + 1]
    assert f"hold {style.percent(share)} " in figures.singular_values(some, K).layout.title.text
