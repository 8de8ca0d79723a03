"""The two channels: three norms per layer, four blocks per adapter."""

import pandas as pd
import pytest

from hiplora import figures
from hiplora.figures import style
from hiplora.measures import channel_table, summary_table

from .reading import lines_in, panel, same, traces

NORMS = {"principal_norm": "principal channel", "mixed_norm": "mixed blocks", "residual_norm": "residual channel"}
BLOCKS = {"pp": "PP", "pr": "PR", "rp": "RP", "rr": "RR"}


@pytest.fixture
def norms() -> pd.DataFrame:
    """Over its layers `half` has ‖PP‖ = 5 and ‖RR‖ = 10, `tenth` has 13 and 130."""
    return pd.DataFrame(
        {
            "adapter": ["half", "half", "tenth", "tenth"],
            "layer": [0, 1, 0, 1],
            "principal_norm": [3.0, 4.0, 5.0, 12.0],
            "mixed_norm": [1.0, 2.0, 7.0, 9.0],
            "residual_norm": [6.0, 8.0, 50.0, 120.0],
        }
    ).assign(norm=lambda t: (t["principal_norm"] ** 2 + t["mixed_norm"] ** 2 + t["residual_norm"] ** 2) ** 0.5)


@pytest.mark.parametrize("column", list(NORMS))
@pytest.mark.parametrize("adapter", ["half", "tenth"])
def test_norms_of_an_adapter_stand_in_its_panel(norms: pd.DataFrame, adapter: str, column: str) -> None:
    figure = figures.channel_norms(norms)
    drawn = lines_in(figure, panel(figure, adapter))
    assert len(drawn) == len(NORMS)
    line = next(line for name, line in drawn.items() if name.startswith(NORMS[column]))
    part = norms[norms["adapter"] == adapter]
    same(line.x, part["layer"])
    same(line.y, part[column])


def test_channels_wear_their_colours(norms: pd.DataFrame) -> None:
    colors = {name.split()[0]: line.line.color for name, line in lines_in(figures.channel_norms(norms), "x").items()}
    assert colors == {"principal": style.PRINCIPAL, "mixed": style.MIXED[0], "residual": style.RESIDUAL}


def test_norms_title_puts_the_principal_over_the_residual_channel(norms: pd.DataFrame) -> None:
    title = figures.channel_norms(norms).layout.title.text
    assert f"half {style.percent(0.5)}, tenth {style.percent(0.1)}" in title


def test_norms_measured_are_norms_drawn(layers: pd.DataFrame) -> None:
    table = channel_table(layers)
    figure = figures.channel_norms(table)
    drawn = lines_in(figure, panel(figure, "random"))
    part = table[table["adapter"] == "random"]
    for column, words in NORMS.items():
        same(next(line for name, line in drawn.items() if name.startswith(words)).y, part[column])


def test_mixed_blocks_of_rounding_are_gaps_and_small_channels_are_not() -> None:
    table = pd.DataFrame(
        {"adapter": "only", "layer": [0, 1], "principal_norm": [1e-6, 1.0], "mixed_norm": [1e-6, 0.5],
         "residual_norm": [1.0, 1e-6], "norm": 1.0}
    )  # fmt: skip
    drawn = {name.split()[0]: line for name, line in lines_in(figures.channel_norms(table), "x").items()}
    same(drawn["principal"].y, table["principal_norm"])
    same(drawn["mixed"].y, pd.Series([float("nan"), 0.5]))
    same(drawn["residual"].y, table["residual_norm"])


def test_norms_of_an_update_of_zeros_are_gaps_and_a_dash(layers: pd.DataFrame) -> None:
    figure = figures.channel_norms(channel_table(layers[layers["adapter"] == "silent"]))
    for line in lines_in(figure, "x").values():
        same(line.y, pd.Series([float("nan")] * 3))
    assert "silent –" in figure.layout.title.text


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
    assert f"random {style.percent(mixed)}" in figures.channel_blocks(summary_table(layers)).layout.title.text
