"""The sweep over k: the enrichment at every principal rank."""

import pandas as pd
import pytest

from hiplora import figures
from hiplora.figures import style

from .conftest import K
from .reading import level_lines, of, same, shapes, traces


@pytest.mark.parametrize("adapter", ["leading", "random"])
def test_sweep_draws_the_enrichment_at_every_k(sweeps: pd.DataFrame, adapter: str) -> None:
    line = traces(figures.sweep(sweeps, K))[adapter]
    same(line.x, of(sweeps, adapter)["principal_rank"])
    same(line.y, of(sweeps, adapter)["enrichment"])


def test_sweep_tells_the_share_on_hovering(sweeps: pd.DataFrame) -> None:
    same(traces(figures.sweep(sweeps, K))["random"].customdata, of(sweeps, "random")["pp"])


def test_sweep_marks_chance_and_the_k_in_use(sweeps: pd.DataFrame) -> None:
    figure = figures.sweep(sweeps, K)
    assert level_lines(figure) == {"x": 1}
    assert [shape.x0 for shape in shapes(figure, "line") if shape.x0 == shape.x1] == [K]


@pytest.mark.parametrize("k", [2, K])
def test_sweep_title_says_the_enrichment_at_k(sweeps: pd.DataFrame, k: int) -> None:
    title = figures.sweep(sweeps, k).layout.title.text
    at = sweeps[sweeps["principal_rank"] == k].set_index("adapter")["enrichment"]
    assert f"k = {k}: leading {style.two_digits(at['leading'])}×, random {style.two_digits(at['random'])}×" in title
