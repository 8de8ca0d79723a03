"""Updates turned by an angle: what is drawn is the tables' own numbers, and the present position is marked."""

import pandas as pd
import plotly.graph_objects as go
import pytest

from hiplora import figures, learn
from hiplora.figures import style

from .reading import level_lines, same, shapes, traces

K = learn.PRINCIPAL_RANK
ANGLE = 30


def marked_at(figure: go.Figure) -> set[float]:
    """Return the places of the vertical lines."""
    return {shape.x0 for shape in shapes(figure, "line") if shape.x0 == shape.x1}


def test_bars_are_the_energy_of_the_directions_in_the_colours_of_the_channels() -> None:
    table = learn.rotation_directions(ANGLE, p=2, q=9)
    drawn = traces(figures.rotation_energy(table, K))
    for name, color, part in (
        ("principal directions", style.PRINCIPAL, table[table["direction"] <= K]),
        ("residual directions", style.RESIDUAL, table[table["direction"] > K]),
    ):
        same(drawn[name].x, part["direction"])
        same(drawn[name].y, part["right"])
        assert drawn[name].marker.color == color


def test_energy_stands_beside_its_mean_by_chance_and_the_title_sums_it_up() -> None:
    figure = figures.rotation_energy(learn.rotation_directions(ANGLE), K)
    assert level_lines(figure) == {"x": pytest.approx(1 / 16)}
    assert f"{style.percent(0.75)} of the update's energy lies on principal directions" in figure.layout.title.text
    assert f"{style.percent(0.25)} on residual" in figure.layout.title.text


CURVES = [
    ("rotation_effect", "typical", "typical inputs"),
    ("rotation_effect", "rare", "rare inputs (tail)"),
    ("rotation_effect", "all", "all inputs"),
    ("merge_error", "first_error", "task of the first"),
    ("merge_error", "second_error", "task of the second"),
    ("merge_typical", "typical_merged", "both merged"),
]


@pytest.fixture(scope="module")
def effects() -> dict[str, pd.DataFrame]:
    angles = (0, ANGLE, 60, 90)
    merges = learn.merge_effects(angles)
    return {
        "rotation_effect": learn.rotation_effects(angles=angles),
        "merge_error": merges,
        "merge_typical": merges,
    }


@pytest.mark.parametrize(("name", "column", "trace"), CURVES)
def test_curve_is_the_column_and_the_mark_lies_on_it(
    effects: dict[str, pd.DataFrame], name: str, column: str, trace: str
) -> None:
    table = effects[name]
    figure = getattr(figures, name)(table, ANGLE)
    drawn = traces(figure)
    same(drawn[trace].x, table["angle"])
    same(drawn[trace].y, table[column])
    here = table[table["angle"] == ANGLE]
    same(drawn[f"{trace}, now"].x, here["angle"])
    same(drawn[f"{trace}, now"].y, here[column])
    assert marked_at(figure) == {ANGLE}
    assert style.percent(float(here[column].iloc[0])) in figure.layout.title.text


def test_curve_of_all_inputs_is_the_thick_one_and_its_ends_are_in_words(effects: dict[str, pd.DataFrame]) -> None:
    table = effects["rotation_effect"]
    figure = figures.rotation_effect(table, ANGLE)
    widths = {trace.name: trace.line.width for trace in figure.data if trace.mode == "lines"}
    assert widths.pop("all inputs") > 2 * max(widths.values())
    ends = " → ".join(style.percent(value) for value in table["all"].iloc[[0, -1]])
    assert f"over all inputs {ends}, of which {style.percent(0.05)} are rare" in figure.layout.title.subtitle.text


def test_first_adapter_alone_is_drawn_beside_the_merge(effects: dict[str, pd.DataFrame]) -> None:
    table = effects["merge_typical"]
    same(traces(figures.merge_typical(table, ANGLE))["the first alone"].y, table["typical_first"])


def test_what_is_below_single_precision_is_nothing_in_words(effects: dict[str, pd.DataFrame]) -> None:
    assert (
        "rare ones by 0\N{NO-BREAK SPACE}%" in figures.rotation_effect(effects["rotation_effect"], 0).layout.title.text
    )
