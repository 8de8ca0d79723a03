"""Each figure shows what its table holds, says what is seen, and means the same by the same colour."""

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from hiplora import figures
from hiplora.catalog import MEASURES
from hiplora.figures import style
from hiplora.measures import channel_table, cut_table, summary_table

from .conftest import K


def every_figure(layers: pd.DataFrame, directions: pd.DataFrame, sweeps: pd.DataFrame) -> dict[str, go.Figure]:
    summary = summary_table(layers)
    return {
        "principal_share": figures.principal_share(summary, K),
        "layer_map": figures.layer_map(layers, MEASURES["enrichment"]),
        "singular_values": figures.singular_values(directions, K),
        "direction_energy": figures.direction_energy(directions, K),
        "cumulative_energy": figures.cumulative_energy(directions, K),
        "gains": figures.gains(directions, K),
        "sweep": figures.sweep(sweeps, K),
        "channel_norms": figures.channel_norms(channel_table(layers)),
        "channel_blocks": figures.channel_blocks(summary),
        "tightness_by_layer": figures.tightness_by_layer(layers),
        "cut_by_layer": figures.cut_by_layer(cut_table(layers)),
    }


def test_every_public_figure_has_a_finding_a_measure_and_named_axes(
    layers: pd.DataFrame, directions: pd.DataFrame, sweeps: pd.DataFrame
) -> None:
    drawn = every_figure(layers, directions, sweeps)
    assert set(drawn) == set(figures.__all__) - {"adapter_colors"}
    for name, figure in drawn.items():
        assert len(figure.layout.title.text) > 20, name
        assert len(figure.layout.title.subtitle.text) > 20, name
        assert any(axis.title.text for axis in figure.select_xaxes()), name
        json.loads(figure.to_json())


def test_adapters_have_other_colours_than_the_channels() -> None:
    colors = figures.adapter_colors(pd.Series(["a", "b", "a", "c"]))
    assert list(colors) == ["a", "b", "c"]
    assert len({*colors.values(), style.PRINCIPAL, style.RESIDUAL, style.NULL}) == 6


def test_adapter_keeps_its_colour_where_an_earlier_one_has_no_row(directions: pd.DataFrame) -> None:
    order = pd.CategoricalDtype(["leading", "random", "silent"])
    drawn = figures.gains(directions.astype({"adapter": order}), K)
    without = directions[directions["adapter"] != "leading"].astype({"adapter": order})
    alone = figures.gains(without, K)
    assert [trace.name for trace in alone.data] == ["random", "silent"]
    assert alone.data[0].marker.color == drawn.data[1].marker.color


def test_principal_share_draws_each_share_and_names_the_extremes(layers: pd.DataFrame) -> None:
    summary = summary_table(layers[layers["adapter"] != "silent"])
    figure = figures.principal_share(summary, K)
    np.testing.assert_allclose(figure.data[0].x, summary["pp"])
    assert figure.layout.title.text.startswith(
        "leading puts 27× its share by chance into the top 4 directions, random "
    )


def test_principal_share_of_an_update_of_zeros_is_drawn(layers: pd.DataFrame) -> None:
    figure = figures.principal_share(summary_table(layers[layers["adapter"] == "silent"]), K)
    assert "nothing that can be compared with chance" in figure.layout.title.text


@pytest.mark.parametrize("column", list(MEASURES))
def test_layer_map_puts_each_module_under_a_clickable_square(layers: pd.DataFrame, column: str) -> None:
    figure = figures.layer_map(layers, MEASURES[column], "model.layers.1.mlp.down_proj")
    maps = [trace for trace in figure.data if isinstance(trace, go.Heatmap)]
    squares = [trace for trace in figure.data if isinstance(trace, go.Scatter)]
    assert len(maps) == len(squares) == layers["adapter"].nunique()
    assert {point[0] for point in squares[0].customdata} == set(layers["module"])
    assert list(maps[0].y) == ["self_attn.q_proj", "mlp.down_proj"]
    assert list(maps[0].x) == ["0", "1", "2"]


def test_layer_map_colours_chance_as_the_middle(layers: pd.DataFrame) -> None:
    axis = figures.layer_map(layers, MEASURES["enrichment"]).layout.coloraxis
    assert axis.cmin == -axis.cmax
    assert axis.colorbar.ticktext[len(axis.colorbar.ticktext) // 2] == "1.0×"


def test_layer_map_leaves_a_gap_where_an_adapter_changes_nothing(layers: pd.DataFrame) -> None:
    some = layers[~((layers["adapter"] == "random") & (layers["layer"] == 1))]
    figure = figures.layer_map(some, MEASURES["pp"])
    grid = np.array([trace for trace in figure.data if isinstance(trace, go.Heatmap)][1].z, dtype=float)
    assert np.isnan(grid[:, 1]).all()
    assert np.isfinite(grid[:, [0, 2]]).all()


def test_modules_outside_the_layers_have_a_column_of_their_own(layers: pd.DataFrame) -> None:
    head = layers.iloc[[0]].assign(module="lm_head", kind="lm_head", layer=pd.NA)
    figure = figures.layer_map(pd.concat([layers, head]).astype({"layer": "Int64"}), MEASURES["pp"])
    assert list(figure.data[0].x) == ["0", "1", "2", "other"]


def test_cumulative_energy_names_who_is_above_chance(directions: pd.DataFrame) -> None:
    assert "Up to direction 4, leading is above chance" in figures.cumulative_energy(directions, K).layout.title.text


def test_blocks_are_stacked_to_the_whole(layers: pd.DataFrame) -> None:
    figure = figures.channel_blocks(summary_table(layers[layers["adapter"] == "random"]))
    assert sum(trace.x[0] for trace in figure.data) == pytest.approx(1)
    assert [trace.marker.color for trace in figure.data][::3] == [style.PRINCIPAL, style.RESIDUAL]


def test_budget_counts_the_modules_over_it(layers: pd.DataFrame) -> None:
    over = layers.assign(tightness=np.where(layers["adapter"] == "leading", 2.0, 0.5))
    assert "leading 6 of 6, random 0 of 6" in figures.tightness_by_layer(over).layout.title.text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.0, "1.0"), (5.84, "5.8"), (12.3, "12"), (99.7, "100"), (0.0123, "0.012"), (1e-7, "1.0e-07"),
     (float("nan"), "–")],
)  # fmt: skip
def test_words_carry_two_significant_digits(value: float, text: str) -> None:
    assert style.two_digits(value) == text
