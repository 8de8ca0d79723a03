"""Along the singular directions: every line is its column, on its own side, and the titles follow from the table."""

import pandas as pd
import pytest

from hiplora import figures
from hiplora.figures import style

from .conftest import K
from .reading import level_lines, lines_in, of, panel, same

SIDES = ("left", "right")


ADAPTERS = ("leading", "random", "silent")


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_direction_energy_draws_each_side_in_its_own_panel(directions: pd.DataFrame, side: str, adapter: str) -> None:
    figure = figures.direction_energy(directions, K)
    line = lines_in(figure, panel(figure, side))[adapter]
    same(line.x, of(directions, adapter)["direction"])
    same(line.y, of(directions, adapter)[side])


@pytest.mark.parametrize("side", SIDES)
def test_direction_energy_draws_the_mean_of_each_octave_in_bold(directions: pd.DataFrame, side: str) -> None:
    figure = figures.direction_energy(directions, K)
    bold = lines_in(figure, panel(figure, side))["random, octave means"]
    shares = of(directions, "random")[side].to_numpy()
    octaves = [slice(0, 1), slice(1, 2), slice(2, 4), slice(4, 8), slice(8, 16), slice(16, 18)]
    means = [shares[octave].mean() for octave in octaves]
    same(bold.x, pd.Series([1, 2, 3, 5, 9, 17, 19]))
    same(bold.y, pd.Series([*means, means[-1]]))


@pytest.mark.parametrize("side", SIDES)
def test_direction_energy_dashes_one_direction_s_share_by_chance(directions: pd.DataFrame, side: str) -> None:
    figure = figures.direction_energy(directions, K)
    first = directions[directions["direction"] == 1]
    assert level_lines(figure)[panel(figure, side)] == pytest.approx(first[f"{side}_null"].mean())


def test_direction_energy_title_is_the_mean_of_both_sides(directions: pd.DataFrame) -> None:
    head = of(directions, "random")["direction"] <= K
    left, right = (of(directions, "random").loc[head, side].sum() for side in SIDES)
    assert style.percent((left + right) / 2) != style.percent(max(left, right))
    title = figures.direction_energy(directions, K).layout.title.text
    assert f"random {style.percent((left + right) / 2)}" in title


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_cumulative_energy_draws_each_side_in_its_own_panel(directions: pd.DataFrame, side: str, adapter: str) -> None:
    figure = figures.cumulative_energy(directions, K)
    line = lines_in(figure, panel(figure, side))[adapter]
    same(line.x, of(directions, adapter)["direction"])
    same(line.y, of(directions, adapter)[f"{side}_cumulative"])


@pytest.mark.parametrize("side", SIDES)
def test_cumulative_band_runs_along_the_widest_null(directions: pd.DataFrame, side: str) -> None:
    figure = figures.cumulative_energy(directions, K)
    band = lines_in(figure, panel(figure, side))["95 % band"]
    half = len(band.y) // 2
    by_direction = directions.groupby("direction")
    same(band.x[:half], pd.Series(sorted(directions["direction"].unique())))
    same(band.y[:half], by_direction[f"{side}_null_high"].max())
    same(band.x[half:], pd.Series(sorted(directions["direction"].unique(), reverse=True)))
    same(band.y[half:][::-1], by_direction[f"{side}_null_low"].min())


@pytest.mark.parametrize(("side", "size"), [("left", 24), ("right", 18)])
def test_cumulative_dashes_grow_by_one_share_by_chance_per_direction(
    directions: pd.DataFrame, side: str, size: int
) -> None:
    figure = figures.cumulative_energy(directions, K)
    dashed = [trace for trace in lines_in(figure, panel(figure, side)).values() if trace.line.dash == "dash"]
    assert [(trace.name, trace.line.dash, trace.line.color) for trace in dashed] == [
        ("by chance, 95 % band", "dash", style.NULL)
    ]
    counted = pd.Series(range(1, 19))
    same(dashed[0].x, counted)
    same(dashed[0].y, counted / size)


@pytest.fixture
def around_the_band(directions: pd.DataFrame) -> pd.DataFrame:
    """Adapters on one null, which differ in where they lie at direction K."""
    null = of(directions, "random")
    places = {
        "clear": ("above", "above"),
        "writer": ("above", "inside"),
        "reader": ("inside", "above"),
        "inner": ("inside", "inside"),
        "under": ("under", "under"),
        "shallow": ("shallow", "under"),
        "half": ("under", "shallow"),
    }

    def at(side: str, place: str) -> pd.Series:
        low, mean, high = (null[f"{side}_{edge}"] for edge in ("null_low", "null", "null_high"))
        return {"above": high * 1.01, "inside": (mean + high) / 2, "shallow": (low + mean) / 2, "under": low * 0.9}[
            place
        ]

    return pd.concat(
        null.assign(adapter=name, left_cumulative=at("left", left), right_cumulative=at("right", right))
        for name, (left, right) in places.items()
    )


def test_above_chance_means_above_the_upper_edge_on_both_sides(around_the_band: pd.DataFrame) -> None:
    assert ": clear is above chance" in figures.cumulative_energy(around_the_band, K).layout.title.text


def test_below_chance_means_below_the_lower_edge_on_both_sides(around_the_band: pd.DataFrame) -> None:
    assert "; under is below chance" in figures.cumulative_energy(around_the_band, K).layout.title.text


@pytest.mark.parametrize("adapter", ["writer", "reader", "inner", "shallow", "half"])
def test_nobody_is_named_who_is_within_the_band_on_a_side(around_the_band: pd.DataFrame, adapter: str) -> None:
    assert adapter not in figures.cumulative_energy(around_the_band, K).layout.title.text
    alone = figures.cumulative_energy(of(around_the_band, adapter), K).layout.title.text
    assert "no adapter is above or below chance" in alone


def test_chance_is_judged_at_direction_k(around_the_band: pd.DataFrame) -> None:
    at_k = (around_the_band["adapter"] == "clear") & (around_the_band["direction"] == K)
    dipping = around_the_band.assign(left_cumulative=around_the_band["left_cumulative"].mask(at_k, 0.0))
    assert "clear" not in figures.cumulative_energy(dipping, K).layout.title.text
    assert "clear is above" in figures.cumulative_energy(dipping, K + 1).layout.title.text
