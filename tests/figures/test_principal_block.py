"""The first answer: each adapter's principal share beside its share by chance."""

import pandas as pd
import pytest

from hiplora import figures
from hiplora.figures import style
from hiplora.measures import summary_table

from .conftest import K
from .reading import same, shapes


@pytest.fixture(scope="module")
def summary(layers: pd.DataFrame) -> pd.DataFrame:
    return summary_table(layers[layers["adapter"] != "silent"])


def test_each_bar_is_the_principal_share(summary: pd.DataFrame) -> None:
    bar = figures.principal_share(summary, K).data[0]
    assert list(bar.y) == summary["adapter"].tolist()
    same(bar.x, summary["pp"])


def test_each_bar_says_its_share_and_enrichment(summary: pd.DataFrame) -> None:
    for text, (_, row) in zip(figures.principal_share(summary, K).data[0].text, summary.iterrows(), strict=True):
        assert style.percent(row["pp"]) in text
        assert f"{style.two_digits(row['enrichment'])}×" in text


def test_band_of_each_bar_runs_between_the_null_s_quantiles(summary: pd.DataFrame) -> None:
    bands = shapes(figures.principal_share(summary, K), "rect")
    same([band.x0 for band in bands], summary["pp_null_low"])
    same([band.x1 for band in bands], summary["pp_null_high"])
    assert [(band.y0 + band.y1) / 2 for band in bands] == pytest.approx(list(range(len(summary))))


def test_dashes_of_each_bar_stand_at_the_mean_by_chance(summary: pd.DataFrame) -> None:
    dashes = [line for line in shapes(figures.principal_share(summary, K), "line") if line.line.dash == "dash"]
    same([line.x0 for line in dashes], summary["pp_null"])
    same([line.x1 for line in dashes], summary["pp_null"])
    assert [(line.y0 + line.y1) / 2 for line in dashes] == pytest.approx(list(range(len(summary))))


def test_axis_holds_bars_and_bands(summary: pd.DataFrame) -> None:
    low, high = figures.principal_share(summary, K).layout.xaxis.range
    assert low == 0
    assert high > summary[["pp", "pp_null_high"]].max().max()


def test_title_names_the_most_and_the_least_enriched(layers: pd.DataFrame) -> None:
    enrichment = {
        name: (part["pp"] * part["norm"] ** 2).sum() / (part["pp_null"] * part["norm"] ** 2).sum()
        for name, part in layers[layers["adapter"] != "silent"].groupby("adapter")
    }
    # The order of the rows is that in which adapters were chosen, not that of the title.
    summary = summary_table(layers[layers["adapter"] != "silent"])[::-1]
    title = figures.principal_share(summary, K).layout.title.text
    leading, random = (style.two_digits(enrichment[name]) for name in ("leading", "random"))
    assert title == (
        f"leading puts {leading} times as much into the top 4 directions as a random update would; "
        f"random: {random} times."
    )


def test_principal_share_of_an_update_of_zeros_is_drawn(layers: pd.DataFrame) -> None:
    figure = figures.principal_share(summary_table(layers[layers["adapter"] == "silent"]), K)
    assert "nothing that can be compared with chance" in figure.layout.title.text


def test_an_adapter_inside_the_band_is_not_a_finding(summary: pd.DataFrame) -> None:
    inside = summary.assign(pp=summary["pp_null"], enrichment=1.0)
    alone = inside[inside["adapter"] == "random"]
    title = figures.principal_share(alone, K).layout.title.text
    assert title == f"random puts no more into the top {K} directions than a random update would."
    title = figures.principal_share(inside, K).layout.title.text
    assert title == f"No adapter puts more into the top {K} directions than a random update would."
