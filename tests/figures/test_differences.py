"""The modules that hold most of the difference of two adapters."""

import numpy as np
import pandas as pd
import pytest

from hiplora import figures
from hiplora.figures import style

from .reading import same, traces

DIFFERENCE = pd.DataFrame(
    {
        "adapter": "a against b",
        "first": "a",
        "second": "b",
        "module": [f"model.layers.{i}.mlp.up_proj" for i in range(15)],
        "kind": "mlp.up_proj",
        "layer": pd.array(range(15), dtype="Int64"),
        "share": np.array([1, 2, 3, 30, 4, 5, 25, *[3.75] * 8]) / 100,
        "pp": 0.1,
        "mixed": 0.3,
        "rr": 0.6,
        "cosine": np.linspace(-0.5, 1, 15),
        "relative_norm": np.linspace(0.1, 0.24, 15),
    }
)


def test_bars_are_the_modules_with_most_of_the_difference_split_by_channel() -> None:
    figure = figures.difference_shares(DIFFERENCE)
    ranked = DIFFERENCE.sort_values("share", ascending=False, kind="stable").head(12)
    assert list(figure.layout.yaxis.ticktext)[:2] == ["3.mlp.up_proj", "6.mlp.up_proj"]
    for name, column in (("principal", "pp"), ("mixed", "mixed"), ("residual", "rr")):
        same(traces(figure)[name].x, ranked["share"] * ranked[column])
    assert traces(figure)["principal"].marker.color == style.PRINCIPAL
    assert traces(figure)["residual"].marker.color == style.RESIDUAL
    same(traces(figure)["cumulative"].x, ranked["share"].cumsum())


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([0.3, 0.25, 0.25, 0.2], "2 of 4 modules hold 55 % of the difference; spread evenly it would be 50 %."),
        ([0.1, 0.7, 0.1, 0.1], "1 of 4 modules holds 70 % of the difference; spread evenly it would be 25 %."),
        ([0.25, 0.25, 0.25, 0.25], "2 of 4 modules hold 50 % of the difference; spread evenly it would be 50 %."),
        ([np.nan] * 4, "a and b do the same to every module."),
    ],
)
def test_title_counts_the_fewest_modules_that_hold_half(shares: list[float], words: str) -> None:
    figure = figures.difference_shares(DIFFERENCE.head(4).assign(share=shares))
    assert figure.layout.title.text.replace("\N{NO-BREAK SPACE}", " ") == words
