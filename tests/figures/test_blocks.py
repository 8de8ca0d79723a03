"""Four blocks per adapter."""

import pandas as pd
import pytest

from hiplora import figures
from hiplora.figures import style
from hiplora.measures import summary_table

from .reading import same, traces

BLOCKS = {"pp": "PP", "pr": "PR", "rp": "RP", "rr": "RR"}


@pytest.mark.parametrize("column", list(BLOCKS))
def test_each_block_is_a_bar_of_its_share(layers: pd.DataFrame, column: str) -> None:
    summary = summary_table(layers)
    bar = next(bar for name, bar in traces(figures.channel_blocks(summary)).items() if name.startswith(BLOCKS[column]))
    assert list(bar.y) == summary["adapter"].tolist()
    same(bar.x, summary[column])


def test_wide_bars_carry_their_share_and_narrow_ones_nothing(layers: pd.DataFrame) -> None:
    summary = summary_table(layers[layers["adapter"] == "random"])
    for bar in figures.channel_blocks(summary).data:
        share = float(bar.x[0])
        assert bar.text[0] == (style.percent(share) if share > 0.04 else "")


def test_blocks_are_stacked_to_the_whole(layers: pd.DataFrame) -> None:
    figure = figures.channel_blocks(summary_table(layers[layers["adapter"] == "random"]))
    assert figure.layout.barmode == "stack"
    assert sum(trace.x[0] for trace in figure.data) == pytest.approx(1)
    assert [trace.marker.color for trace in figure.data][::3] == [style.PRINCIPAL, style.RESIDUAL]


def test_blocks_title_says_what_is_in_neither_channel(layers: pd.DataFrame) -> None:
    part = layers[layers["adapter"] == "random"]
    weight = part["norm"] ** 2
    mixed = ((1 - part["pp"] - part["rr"]) * weight).sum() / weight.sum()
    assert f"{style.percent(mixed)} of random" in figures.channel_blocks(summary_table(layers)).layout.title.text
