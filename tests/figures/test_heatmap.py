"""Heat maps: color encodes the measure on its scale, each cell of a map can be clicked, steps run to the right."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
import pytest

from hiplora import figures
from hiplora.figures import style
from hiplora.measures import DIFFERENCES, MEASURES
from hiplora.printable import apart

from .conftest import MODULES
from .reading import numbers, panel, same, shapes

ENCODING = {
    "chance": np.log2,
    "budget": np.log2,
    "log": np.log10,
    "share": np.asarray,
    "linear": np.asarray,
    "count": np.asarray,
}


LOGARITHMIC = [name for name, info in MEASURES.items() if info.scale in ("chance", "budget", "log")]


MODULE = "model.layers.1.mlp.down_proj"


def maps(figure: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in figure.data if isinstance(trace, go.Heatmap)]


def squares(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if isinstance(trace, go.Scatter)]


def expected(layers: pd.DataFrame, adapter: str, column: str) -> npt.NDArray[np.float64]:
    """Return the encoded values, kinds down and layers across; what has no logarithm is a gap."""
    part = layers[layers["adapter"] == adapter].set_index(["kind", "layer"])[column].astype("float64")
    kinds, order = layers["kind"].unique(), sorted(layers["layer"].unique())
    values = np.array([[part[kind, layer] for layer in order] for kind in kinds])
    if column in LOGARITHMIC:
        values[~(values > 0)] = np.nan
    return np.asarray(ENCODING[MEASURES[column].scale](values))


@pytest.mark.parametrize("column", list(MEASURES))
def test_colour_encodes_each_module_on_the_measure_s_scale(layers: pd.DataFrame, column: str) -> None:
    drawn = maps(figures.layer_map(layers, MEASURES[column]))
    for trace, adapter in zip(drawn, ["leading", "random", "silent"], strict=True):
        np.testing.assert_allclose(numbers(trace.z), expected(layers, adapter, column), rtol=1e-5, atol=1e-6)


def test_ratios_and_shares_have_the_scales_of_ratios_and_shares() -> None:
    assert MEASURES["enrichment"].scale == "chance"
    assert MEASURES["tightness"].scale == "budget"
    assert MEASURES["pp"].scale == "share"
    assert MEASURES["relative_norm"].scale == "log"


def test_map_of_an_adapter_stands_below_its_name(layers: pd.DataFrame) -> None:
    figure = figures.layer_map(layers, MEASURES["pp"])
    for trace, adapter in zip(maps(figure), ["leading", "random", "silent"], strict=True):
        name = next(note for note in figure.layout.annotations if note.text == adapter)
        axis = figure.layout["yaxis" + (trace.yaxis or "y")[1:]]
        assert name.y == pytest.approx(axis.domain[1])


@pytest.mark.parametrize("column", LOGARITHMIC)
def test_colour_bar_is_labelled_with_values_not_logarithms(layers: pd.DataFrame, column: str) -> None:
    bar = figures.layer_map(layers, MEASURES[column]).layout.coloraxis.colorbar
    base = 10.0 if MEASURES[column].scale == "log" else 2.0
    assert len(bar.tickvals) > 0
    for place, label in zip(bar.tickvals, bar.ticktext, strict=True):
        assert float(label.rstrip("×")) == pytest.approx(base**place, rel=0.05)


def colors_of(layers: pd.DataFrame, column: str, values: list[float]) -> go.layout.Coloraxis:
    """Return the color axis of a map of three modules, repeated."""
    table = layers[layers["adapter"] == "random"].assign(**{column: np.resize(values, 6)})
    return figures.layer_map(table, MEASURES[column]).layout.coloraxis


@pytest.mark.parametrize("column", ["enrichment", "tightness"])
def test_ratio_scales_reach_as_far_up_as_down_where_both_sides_occur(layers: pd.DataFrame, column: str) -> None:
    axis = colors_of(layers, column, [0.5, 1.0, 8.0])
    assert axis.cmax == -axis.cmin == pytest.approx(3)
    assert axis.colorbar.ticktext[len(axis.colorbar.ticktext) // 2] == "1.0×"
    assert list(axis.colorscale) == [tuple(part) for part in style.DIVERGING]


@pytest.mark.parametrize(("values", "ends"), [([1.0, 2.0, 16.0], (0, 4)), ([0.25, 0.5, 1.0], (-2, 0))])
def test_ratio_scales_show_the_side_that_occurs(
    layers: pd.DataFrame, values: list[float], ends: tuple[float, float]
) -> None:
    axis = colors_of(layers, "tightness", values)
    assert (axis.cmin, axis.cmax) == pytest.approx(ends)
    # White still means 1.
    white = style.DIVERGING[2][1]
    assert axis.colorscale[0 if ends[0] == 0 else -1][1] == white


def test_a_value_hardly_below_chance_does_not_halve_the_scale(layers: pd.DataFrame) -> None:
    axis = colors_of(layers, "enrichment", [0.9, 4.0, 64.0])
    assert (axis.cmin, axis.cmax) == pytest.approx((0, 6))


def test_scales_of_many_modules_leave_outliers_out(layers: pd.DataFrame) -> None:
    row = layers[layers["adapter"] == "random"].iloc[[0]]
    many = pd.concat([row.assign(layer=layer, enrichment=4.0) for layer in range(100)], ignore_index=True)
    many.loc[7, "enrichment"] = 1024.0
    assert figures.layer_map(many, MEASURES["enrichment"]).layout.coloraxis.cmax == pytest.approx(2)


def test_no_module_is_named_where_none_is_above_the_band(layers: pd.DataFrame) -> None:
    inside = layers[layers["adapter"] == "random"].assign(pp=layers["pp_null"], enrichment=1.0)
    title = figures.layer_map(inside, MEASURES["enrichment"]).layout.title.text
    assert title == "Enrichment is nowhere above the band of random updates: 1.0× at most."


def test_shares_are_coloured_from_zero_to_the_largest(layers: pd.DataFrame) -> None:
    axis = figures.layer_map(layers, MEASURES["left_share"]).layout.coloraxis
    assert (axis.cmin, axis.cmax) == pytest.approx((0, layers["left_share"].max()))


def test_log_scales_reach_from_the_smallest_to_the_largest(layers: pd.DataFrame) -> None:
    axis = figures.layer_map(layers, MEASURES["relative_norm"]).layout.coloraxis
    positive = layers["relative_norm"][layers["relative_norm"] > 0]
    assert (axis.cmin, axis.cmax) == pytest.approx((np.log10(positive.min()), np.log10(positive.max())))


@pytest.mark.parametrize("column", list(MEASURES))
def test_layer_map_puts_each_module_under_a_clickable_square(layers: pd.DataFrame, column: str) -> None:
    figure = figures.layer_map(layers, MEASURES[column], MODULE)
    assert len(maps(figure)) == len(squares(figure)) == layers["adapter"].nunique()
    assert list(maps(figure)[0].y) == ["self_attn.q_proj", "mlp.down_proj"]
    assert list(maps(figure)[0].x) == ["0", "1", "2"]
    for trace in squares(figure):
        found = {point[0]: (x, y) for x, y, point in zip(trace.x, trace.y, trace.customdata, strict=True)}
        assert found == {row["module"]: (str(row["layer"]), row["kind"]) for _, row in layers.iterrows()}


def test_hovering_tells_value_and_norm(layers: pd.DataFrame) -> None:
    trace = squares(figures.layer_map(layers, MEASURES["tightness"]))[1]
    part = layers[layers["adapter"] == "random"]
    for at, column in ((1, "tightness"), (3, "relative_norm")):
        assert [point[at] for point in trace.customdata] == [style.two_digits(value) for value in part[column]]


def test_selected_module_is_framed_in_every_map(layers: pd.DataFrame) -> None:
    frames = shapes(figures.layer_map(layers, MEASURES["pp"], MODULE), "rect")
    assert {shape.yref for shape in frames} == {"y", "y2", "y3"}
    assert {(shape.x0, shape.x1, shape.y0, shape.y1) for shape in frames} == {(0.5, 1.5, 0.5, 1.5)}


@pytest.mark.parametrize("column", ["enrichment", "relative_norm", "tightness"])
def test_map_title_names_the_module_of_the_peak(layers: pd.DataFrame, column: str) -> None:
    top = layers.loc[layers[column].idxmax()]
    title = figures.layer_map(layers, MEASURES[column]).layout.title.text
    assert f"highest in {top['module']} of {top['adapter']}: {style.two_digits(top[column])}" in title


def test_counts_are_whole_in_colour_and_title(layers: pd.DataFrame) -> None:
    counted = layers.assign(intruders=pd.array(range(len(layers)), dtype="Int64"))
    figure = figures.layer_map(counted, MEASURES["intruders"])
    for trace, adapter in zip(maps(figure), ["leading", "random", "silent"], strict=True):
        np.testing.assert_array_equal(numbers(trace.z), expected(counted, adapter, "intruders"))
    assert figure.layout.title.text.endswith("leading 45, random 51, silent 57.")


def test_layer_map_leaves_a_gap_where_an_adapter_changes_nothing(layers: pd.DataFrame) -> None:
    some = layers[~((layers["adapter"] == "random") & (layers["layer"] == 1))]
    grid = numbers(maps(figures.layer_map(some, MEASURES["pp"]))[1].z)
    assert np.isnan(grid[:, 1]).all()
    assert np.isfinite(grid[:, [0, 2]]).all()


def test_modules_outside_the_layers_have_a_column_of_their_own(layers: pd.DataFrame) -> None:
    head = layers.iloc[[0]].assign(module="lm_head", kind="lm_head", layer=pd.NA)
    figure = figures.layer_map(pd.concat([layers, head]).astype({"layer": "Int64"}), MEASURES["pp"])
    assert list(figure.data[0].x) == ["0", "1", "2", "other"]
    same(np.array(maps(figure)[0].z)[2:, 3], head["pp"])


def test_cosines_are_colored_as_far_as_they_go_around_unrelated(layers: pd.DataFrame) -> None:
    cosines = np.array([[-0.5, 0.0, 0.125], [-0.25, -0.125, 0.25]])
    table = layers[layers["adapter"] == "random"].assign(cosine=cosines.T.ravel())
    figure = figures.layer_map(table, DIFFERENCES["cosine"])
    np.testing.assert_array_equal(numbers(maps(figure)[0].z), cosines)
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-0.5, 0.5)
    assert axis.colorscale == style.DIVERGING
    assert axis.colorscale[2][0] == 0.5
    assert axis.colorbar.ticktext is None
    assert "highest in model.layers.2.mlp.down_proj of random: 0.25" in figure.layout.title.text


@pytest.mark.parametrize("run", ["plain", "ours"])
def test_cells_are_the_tightness_of_a_module_at_a_step(history: pd.DataFrame, run: str) -> None:
    figure = figures.tightness_history(history, 16)
    axis = panel(figure, run)
    grid = next(trace for trace in figure.data if trace.type == "heatmap" and (trace.xaxis or "x") == axis)
    assert list(grid.x) == [0, 4, 8]
    expected = history[history["run"] == run].pivot_table(index="module", columns="step", values="tightness")
    expected = expected.reindex(MODULES)
    np.testing.assert_allclose(2.0 ** numbers(grid.z)[:, 1:], expected.to_numpy()[:, 1:], rtol=1e-6)
    assert np.isnan(numbers(grid.z)[:, 0]).all()
    assert [row[0][0] for row in grid.customdata] == MODULES


def test_one_colour_scale_has_the_budget_in_its_middle(history: pd.DataFrame) -> None:
    figure = figures.tightness_history(history, 16)
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    axis = figure.layout.coloraxis
    assert axis.cmin == -axis.cmax
    assert axis.colorbar.ticktext[list(axis.colorbar.tickvals).index(0)] == "1.0×"


def test_layers_are_named_where_they_begin(history: pd.DataFrame) -> None:
    axis = figures.tightness_history(history, 16).layout.yaxis
    assert (list(axis.tickvals), list(axis.ticktext)) == ([0, 2], ["0", "1"])
    assert axis.range[0] > axis.range[1]


def test_tightness_title_names_the_tightest_module_of_each_run(history: pd.DataFrame) -> None:
    title = figures.tightness_history(history, 16).layout.title.text
    assert f"plain would spend up to {style.percent(2.0)} of a budget, in layers.0.self_attn.q_proj" in title
    assert f"ours spends up to {style.percent(0.62)} of its budget, in layers.1.mlp.up_proj" in title


def test_before_the_first_step_nothing_is_spent(history: pd.DataFrame) -> None:
    start = history[history["step"] == 0]
    title = figures.tightness_history(start, 16).layout.title.text
    assert title == "plain has not spent any of its budget yet; ours has not spent any of its budget yet."


def test_steps_to_come_are_left_empty(history: pd.DataFrame) -> None:
    assert {tuple(axis.range) for axis in figures.tightness_history(history, 16).select_xaxes()} == {(0, 16)}


def test_run_without_a_measurement_keeps_an_empty_panel(history: pd.DataFrame) -> None:
    figure = figures.tightness_history(history[history["run"] == "ours"], 16)
    assert {trace.xaxis for trace in figure.data} == {panel(figure, "ours")}
    assert panel(figure, "plain") != panel(figure, "ours")


def test_a_cell_says_its_value_beside_the_band_of_random_updates(layers: pd.DataFrame) -> None:
    cells = figures.layer_map(layers, MEASURES["enrichment"]).data[1]
    row = layers[layers["adapter"] == layers["adapter"].iloc[0]].iloc[0]
    value, low, high = apart(row["enrichment"], *(row[f"pp_null_{end}"] / row["pp_null"] for end in ("low", "high")))
    assert cells.customdata[0].tolist()[:3] == [row["module"], value, f"{low} to {high}"]
    assert "95 % of random updates: %{customdata[2]}" in cells.hovertemplate
