"""Octaves of directions, as multiples of chance."""

import numpy as np
import pandas as pd
import pytest

from hiplora import figures

from .conftest import ORDER
from .reading import lines_in, panel, same

OCTAVES = pd.DataFrame(
    {
        "adapter": pd.Categorical(["a"] * 4 + ["b"] * 4, ORDER.categories),
        "start": [1, 2, 3, 0] * 2,
        "end": pd.array([1, 2, 3, None] * 2, dtype="Int64"),
        "left": [0.4, 0.2, 0.3, 0.1, 0.05, 0.25, 0.3, 0.4],
        "left_null": [0.1, 0.1, 0.2, 0.6] * 2,
        "left_null_low": [0.05, 0.05, 0.1, 0.5] * 2,
        "left_null_high": [0.2, 0.2, 0.3, 0.7] * 2,
        "right": [0.5, 0.2, 0.3, 0.0, 0.025, 0.625, 0.35, 0.0],
        "right_null": [0.25, 0.25, 0.5, 0.0] * 2,
        "right_null_low": [0.2, 0.2, 0.4, 0.0] * 2,
        "right_null_high": [0.3, 0.3, 0.6, 0.0] * 2,
    }
)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("adapter", ["a", "b"])
def test_octaves_are_drawn_as_multiples_of_chance(side: str, adapter: str) -> None:
    figure = figures.octave_energy(OCTAVES)
    line = lines_in(figure, panel(figure, side))[adapter]
    part = OCTAVES[(OCTAVES["adapter"] == adapter) & (OCTAVES[f"{side}_null"] > 0)]
    assert list(line.x) == ["1", "2", "3", "beyond"][: len(part)]
    same(line.y, part[side] / part[f"{side}_null"])
    assert line.line.color == figures.adapter_colors(OCTAVES["adapter"])[adapter]


def test_octaves_stand_in_the_band_of_chance() -> None:
    figure = figures.octave_energy(OCTAVES)
    band = lines_in(figure, panel(figure, "left"))["95 % band"]
    assert list(band.y) == pytest.approx([2, 2, 1.5, 0.7 / 0.6, 0.5 / 0.6, 0.5, 0.5, 0.5])
    assert list(band.x) == ["1", "2", "3", "beyond", "beyond", "3", "2", "1"]


def test_octaves_keep_their_order_where_the_first_adapter_has_fewer() -> None:
    short = OCTAVES[~((OCTAVES["adapter"] == "a") & (OCTAVES["start"] == 3))]
    for axis in figures.octave_energy(short).select_xaxes():
        assert list(axis.categoryarray) == ["1", "2", "3", "beyond"]


def test_octave_title_names_where_each_is_furthest_above_chance() -> None:
    title = figures.octave_energy(OCTAVES).layout.title.text
    assert title == "Furthest above chance: a at direction 1 (3.0×), b at direction 2 (2.5×)."


def test_octaves_of_an_adapter_of_zeros_are_a_gap() -> None:
    silent = OCTAVES.assign(left=np.nan, right=np.nan)
    assert figures.octave_energy(silent).layout.title.text == "The updates are all zero."


def test_of_adapters_that_are_all_zero_nothing_is_drawn() -> None:
    silent = OCTAVES.assign(**dict.fromkeys([name for name in OCTAVES if name.startswith(("left", "right"))], np.nan))
    figure = figures.octave_energy(silent)
    assert not figure.data
    assert figure.layout.title.text == "The updates are all zero."


def test_an_octave_inside_the_band_is_not_a_finding() -> None:
    table = OCTAVES.copy()
    for side in ("left", "right"):
        table[side] = table[side].where(table["adapter"] == "a", table[f"{side}_null"])
    title = figures.octave_energy(table).layout.title.text
    assert title == "Furthest above chance: a at direction 1 (3.0×). Nowhere above the band of random updates: b."
