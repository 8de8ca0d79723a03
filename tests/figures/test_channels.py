"""The channels: three norms per layer, over the steps of a run, and for one sentence."""

import pandas as pd
import pytest

from hiplora import figures
from hiplora.figures import style
from hiplora.measures import channel_table

from .reading import lines_in, numbers, panel, same

NORMS = {"principal_norm": "principal channel", "mixed_norm": "mixed blocks", "residual_norm": "residual channel"}


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


LOOK = {
    "principal": (style.PRINCIPAL, "solid", "circle"),
    "mixed": (style.MIXED[0], "dot", "x"),
    "residual": (style.RESIDUAL, "solid", "square"),
}


@pytest.mark.parametrize("name", ["channel_norms", "norm_history", "probe_effects"])
def test_channels_look_alike_in_every_panel_and_figure(norms: pd.DataFrame, history: pd.DataFrame, name: str) -> None:
    figure = {
        "channel_norms": lambda: figures.channel_norms(norms),
        "norm_history": lambda: figures.norm_history(history, 16),
        "probe_effects": lambda: figures.probe_effects(PROBED),
    }[name]()
    for axis in ("x", "x2"):
        for title, line in lines_in(figure, axis).items():
            color, dash, symbol = LOOK[title.split()[0]]
            assert (line.line.color, line.line.dash) == (color, dash)
            assert line.marker.symbol == (symbol if "markers" in line.mode else None)
    in_legend = [line.name.split()[0] for line in figure.data if line.showlegend]
    assert in_legend == list(LOOK)


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


@pytest.mark.parametrize("column", list(NORMS))
@pytest.mark.parametrize("run", ["plain", "ours"])
def test_norms_over_steps_are_the_root_of_the_sum_of_squares_over_modules(
    history: pd.DataFrame, run: str, column: str
) -> None:
    figure = figures.norm_history(history, 16)
    drawn = lines_in(figure, panel(figure, run))
    line = next(line for name, line in drawn.items() if name.startswith(NORMS[column].split()[0]))
    part = history[history["run"] == run]
    expected = (part[column] ** 2).groupby(part["step"]).sum() ** 0.5
    assert list(line.x) == [0, 4, 8]
    same(line.y, expected.where(expected > 0))


def test_norms_of_steps_to_come_are_left_empty(history: pd.DataFrame) -> None:
    assert {tuple(axis.range) for axis in figures.norm_history(history, 16).select_xaxes()} == {(0, 16)}


def test_norms_of_a_run_without_a_measurement_are_a_dash(history: pd.DataFrame) -> None:
    assert "plain –" in figures.norm_history(history[history["run"] == "ours"], 16).layout.title.text


def test_history_title_puts_the_principal_over_the_residual_channel_at_the_end(history: pd.DataFrame) -> None:
    title = figures.norm_history(history, 16).layout.title.text
    assert f"plain {style.percent(0.25)}, ours {style.percent(0.5)}" in title


PROBED = pd.DataFrame(
    {
        "adapter": ["a-lora"] * 2 + ["a-hiplora"] * 2,
        "layer": [0, 1] * 2,
        "principal": [0.04, 0.02, 0.01, 0.03],
        "mixed": [0.06, 0.05, 1e-9, 1e-9],
        "residual": [0.05, 0.07, 0.08, 0.06],
    }
).astype({"layer": "Int64"})


@pytest.mark.parametrize("adapter", ["a-lora", "a-hiplora"])
@pytest.mark.parametrize(("name", "column"), [("principal channel", "principal"), ("residual channel", "residual")])
def test_effects_on_an_adapter_s_outputs_stand_in_its_panel(adapter: str, name: str, column: str) -> None:
    figure = figures.probe_effects(PROBED)
    drawn = lines_in(figure, panel(figure, adapter))
    assert list(drawn) == ["principal channel", "mixed blocks", "residual channel"]
    part = PROBED[PROBED["adapter"] == adapter]
    same(drawn[name].x, part["layer"])
    same(drawn[name].y, part[column])


def test_mixed_blocks_are_drawn_where_there_are_any() -> None:
    figure = figures.probe_effects(PROBED)
    same(lines_in(figure, panel(figure, "a-lora"))["mixed blocks"].y, PROBED["mixed"][:2])
    assert pd.isna(numbers(lines_in(figure, panel(figure, "a-hiplora"))["mixed blocks"].y)).all()


def test_probe_title_gives_each_channel_its_mean_over_layers() -> None:
    title = figures.probe_effects(PROBED).layout.title.text
    lora, hiplora = title.split("; ")
    assert all(style.percent(mean) in lora for mean in (0.03, 0.055, 0.06))
    assert all(style.percent(mean) in hiplora for mean in (0.02, 0.07))
    assert "mixed" not in hiplora
