"""One mark per module: tightness, shadow prices, and budgets before and after."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from hiplora import figures
from hiplora.figures import style

from .reading import level_lines, numbers, same, traces


@pytest.mark.parametrize("adapter", ["leading", "random"])
def test_each_mark_is_the_tightness_of_a_module(layers: pd.DataFrame, adapter: str) -> None:
    marks = traces(figures.tightness_by_layer(layers))[adapter]
    part = layers[layers["adapter"] == adapter]
    assert [point[0] for point in marks.customdata] == part["module"].tolist()
    same(marks.y, part["tightness"])


def test_marks_stand_within_their_layer_those_of_one_module_above_each_other(layers: pd.DataFrame) -> None:
    drawn = traces(figures.tightness_by_layer(layers))
    for adapter in ("leading", "random"):
        same(numbers(drawn[adapter].x).round(), layers.loc[layers["adapter"] == adapter, "layer"])
    places = [numbers(drawn[adapter].x) for adapter in ("leading", "random")]
    np.testing.assert_array_equal(*places)
    assert len(set(places[0])) == len(places[0])


def test_budget_is_a_line_at_one(layers: pd.DataFrame) -> None:
    assert level_lines(figures.tightness_by_layer(layers)) == {"x": 1}


def test_modules_without_update_have_no_mark(layers: pd.DataFrame) -> None:
    assert len(traces(figures.tightness_by_layer(layers))["silent"].x) == 0


def test_budget_counts_the_modules_over_it(layers: pd.DataFrame) -> None:
    some = (layers["adapter"] == "leading") & (layers["layer"] > 0)
    over = layers.assign(tightness=np.where(some, 2.0, 0.5))
    assert "leading 4 of 6, random 0 of 6" in figures.tightness_by_layer(over).layout.title.text


def deep(layers: pd.DataFrame) -> pd.DataFrame:
    """The layers of one adapter three times over: nine."""
    part = layers[layers["adapter"] == "random"]
    return pd.concat([part.assign(layer=part["layer"] + 3 * i) for i in range(3)], ignore_index=True)


def test_many_layers_are_a_map_of_layers_and_kinds(layers: pd.DataFrame) -> None:
    figure = figures.tightness_by_layer(deep(layers).assign(tightness=2.0))
    assert isinstance(figure.data[0], go.Heatmap)
    assert numbers(figure.data[0].z).shape == (2, 9)
    np.testing.assert_array_equal(numbers(figure.data[0].z), np.log2(2.0))
    assert figure.layout.title.text == "Modules over the budget: random 18 of 18."


def test_what_many_layers_spend_together_is_a_map_of_the_whole_sum(layers: pd.DataFrame) -> None:
    table = deep(layers)[["module", "layer", "kind", "tightness"]].assign(independent=0.5, left=0.0)
    parts = [table.assign(adapter=name, position=i, together=i / 4) for i, name in enumerate("ab", start=1)]
    figure = figures.ledger(pd.concat(parts, ignore_index=True))
    np.testing.assert_array_equal(numbers(figure.data[0].z), np.full((2, 9), -1))


def priced() -> pd.DataFrame:
    """Two modules a layer; `gains` would gain most in layer 1's second, `spent` nowhere."""
    modules = [f"model.layers.{layer}.{kind}" for layer in (0, 1) for kind in ("self_attn.q_proj", "mlp.up_proj")]
    return pd.DataFrame(
        {
            "adapter": ["gains"] * 4 + ["spent"] * 4,
            "module": modules * 2,
            "layer": [0, 0, 1, 1] * 2,
            "kind": ["self_attn.q_proj", "mlp.up_proj"] * 4,
            "tightness": 0.5,
            "shadow_price": [0.1, -0.2, 0.3, 0.4, -1.0, -2.0, 0.0, -3.0],
        }
    )


@pytest.fixture
def prices() -> pd.DataFrame:
    return priced()


@pytest.mark.parametrize("adapter", ["gains", "spent"])
def test_each_mark_is_the_price_of_a_module_in_its_layer(prices: pd.DataFrame, adapter: str) -> None:
    marks = traces(figures.prices_by_module(prices))[adapter]
    part = prices[prices["adapter"] == adapter]
    assert [point[0] for point in marks.customdata] == part["module"].tolist()
    same(marks.y, part["shadow_price"])
    same(numbers(marks.x).round(), part["layer"])


def test_price_title_names_who_would_gain_and_who_would_not(prices: pd.DataFrame) -> None:
    title = figures.prices_by_module(prices).layout.title.text
    assert "gains would gain most from more budget in layers.1.mlp.up_proj." in title
    assert "No module of spent would gain from more budget." in title


def test_prices_have_a_line_at_zero(prices: pd.DataFrame) -> None:
    assert level_lines(figures.prices_by_module(prices)) == {"x": 0}


def reallocated() -> pd.DataFrame:
    """0.1 everywhere before; the last module gets the most, the second the least, one stays."""
    table = priced()
    return table[table["adapter"] == "gains"].assign(epsilon=0.1, new_epsilon=[0.1, 0.05, 0.11, 0.15])


@pytest.fixture
def moved() -> pd.DataFrame:
    return reallocated()


def test_old_and_new_budget_stand_above_each_other(moved: pd.DataFrame) -> None:
    drawn = traces(figures.reallocated_budgets(moved))
    same(drawn["ε so far"].y, moved["epsilon"])
    same(drawn["ε of the next run"].y, moved["new_epsilon"])
    np.testing.assert_array_equal(drawn["ε so far"].x, drawn["ε of the next run"].x)
    assert len(set(drawn["ε so far"].x)) == len(moved)


def test_reallocation_title_counts_the_winners_and_names_both_ends(moved: pd.DataFrame) -> None:
    figure = figures.reallocated_budgets(moved)
    assert "More budget for 2 of 4 modules" in figure.layout.title.text
    assert "layers.1.mlp.up_proj 0.10 → 0.15" in figure.layout.title.text
    assert "layers.0.mlp.up_proj 0.10 → 0.050" in figure.layout.title.text
    assert style.two_digits(4 * 0.01) in figure.layout.title.subtitle.text
